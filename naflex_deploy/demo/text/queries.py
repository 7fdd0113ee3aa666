"""Fifty queries that training never sees, five for each kind of page."""

from __future__ import annotations

QUERIES: dict[str, tuple[str, ...]] = {
    "invoice": (
        "the bill from the plumber",
        "unpaid invoice with VAT",
        "what do we owe the supplier",
        "itemised statement of charges, total at the bottom",
        "commercial invoice for the shipment",
    ),
    "receipt": (
        "till slip from the supermarket",
        "proof of purchase for the coffee",
        "long narrow paper from the cash register",
        "grocery receipt",
        "what I paid at the petrol station",
    ),
    "letter": (
        "a letter to the tenant",
        "formal correspondence with a signature",
        "dear sir or madam",
        "a typed page written to the bank",
        "cover letter for an application",
    ),
    "table": (
        "a grid of numbers in rows and columns",
        "spreadsheet printed out",
        "timetable with ruled cells",
        "tabular data",
        "table of measurements",
    ),
    "form": (
        "application form to fill in",
        "boxes to tick and fields to complete",
        "a blank questionnaire",
        "registration sheet with empty fields",
        "tax form",
    ),
    "code": (
        "python source code",
        "screenshot of a program",
        "a function in an editor",
        "lines of a script with indentation",
        "software listing",
    ),
    "chart": (
        "bar chart of sales",
        "a graph with axes",
        "line plot over time",
        "diagram showing growth",
        "histogram",
    ),
    "id-card": (
        "identity card with a photo",
        "driver's licence",
        "an employee badge",
        "someone's ID",
        "passport-like card with portrait",
    ),
    "ticket": (
        "train ticket",
        "boarding pass",
        "admission to the concert",
        "a stub with a barcode for the cinema",
        "entry pass for the museum",
    ),
    "note": (
        "handwritten note",
        "a scribbled memo",
        "jotting by hand on paper",
        "shopping list written by hand",
        "sticky note with scrawl",
    ),
}
