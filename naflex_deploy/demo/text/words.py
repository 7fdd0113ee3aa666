"""What people call each kind of page, what is on it, and what it is about."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """Words about one kind of page.

    Attributes:
        names: What it is called.
        marks: What is seen on it.
        topics: What it is about, or where it comes from.
        asks: Whole texts that ask for it without its name.
    """

    names: tuple[str, ...]
    marks: tuple[str, ...]
    topics: tuple[str, ...]
    asks: tuple[str, ...] = ()


def split(text: str) -> tuple[str, ...]:
    """The parts of a list that commas divide."""
    return tuple(part.strip() for part in text.split(","))


WORDS: dict[str, Words] = {
    "invoice": Words(
        split(
            "invoice, invoices, bill, billing document, statement of account, tax invoice, pro forma invoice, "
            "sales invoice, vendor bill, supplier invoice, account payable, statement of charges, bill to pay"
        ),
        split(
            "amount due, amounts on the right, a block of totals, subtotal and vat, net and gross, billed items, "
            "payment terms, unit prices and quantities, item lines with prices, due date, amount owed, charges, "
            "bank details for payment, horizontal rules, total due below, itemised services"
        ),
        split(
            "the supplier, a vendor, the contractor, the electrician, a customer, an order of goods, shipping, "
            "consulting services, the repair work, the carpenter, office supplies, a delivery, freight, the lawyer"
        ),
        (
            "how much is owed to the vendor",
            "what must be paid to the contractor",
            "we owe them money",
            "amount payable within thirty days",
            "who has billed us",
            "what the supplier charges",
            "unpaid and overdue",
        ),
    ),
    "receipt": Words(
        split(
            "receipt, receipts, sales receipt, till receipt, sales slip, slip, cash receipt, shop receipt, "
            "purchase receipt, checkout receipt, payment slip, proof of payment, paper of the cash desk"
        ),
        split(
            "prices below each other, change given, a long narrow strip, cash or card, thermal paper, a narrow column, "
            "items bought, total paid, a barcode at the end, dotted lines, thanks for shopping, tall thin paper"
        ),
        split(
            "the shop, the store, the grocer, the market, a restaurant, the cafe, the bakery, lunch, groceries, fuel, "
            "the gas station, the pharmacy, the till, coffee and cake, the cash register, the kiosk, a purchase"
        ),
        (
            "what I bought at the store",
            "what we paid for lunch",
            "paid in cash at the shop",
            "evidence that I purchased it",
            "my shopping at the grocer's",
            "what the fuel has cost me",
            "strip from the till",
        ),
    ),
    "letter": Words(
        split(
            "letter, letters, business letter, formal letter, correspondence, mail, written reply, typed letter, "
            "letter of complaint, letter of recommendation, official letter, mailing, piece of correspondence"
        ),
        split(
            "a salutation, paragraphs of text, a signature at the end, a letterhead, an address at the top, "
            "kind regards, yours sincerely, a closing line, plain paragraphs, sender and recipient, typed paragraphs"
        ),
        split(
            "the landlord, the insurance, the customer, a friend, the office, the council, an employer, a colleague, "
            "the school, the authorities, a client, the manager, the neighbour, the court, the lender"
        ),
        (
            "dear madam",
            "dear sir",
            "yours faithfully",
            "to whom it may concern",
            "best regards and a signature",
            "somebody writes to the company",
            "a page written to the insurer",
            "they wrote to us",
        ),
    ),
    "table": Words(
        split(
            "table, tables, data table, spreadsheet, matrix of values, grid, tabulation, timetable, "
            "price list in cells, sheet of figures, table of figures, schedule, ledger, worksheet"
        ),
        split(
            "rows and columns, ruled cells, a header row, lines between cells, numbers in cells, many columns, "
            "cell borders, gridlines, figures in rows, a grid of cells, columns of values, tabulated values"
        ),
        split(
            "results, the statistics, the census, departures, scores, inventory, the experiment, temperatures, "
            "prices, the quarter, staff hours, the laboratory, measured values, budgets"
        ),
        (
            "numbers arranged in a grid",
            "values in rows and columns",
            "data in cells",
            "all figures at a glance in columns",
            "tabulated results",
        ),
    ),
    "form": Words(
        split(
            "form, forms, questionnaire, blank form, registration form, order form, application, survey, "
            "enrolment form, claim form, form sheet, declaration, sign-up sheet, feedback form, tax return"
        ),
        split(
            "boxes to fill in, empty fields, checkboxes, labels and blanks, fields for name and address, "
            "boxes to tick, lines to write on, tick boxes, a place to sign, blanks to complete, entry fields"
        ),
        split(
            "a new account, the insurance claim, a visa, the clinic, membership, the tax office, "
            "a survey of customers, the course, a permit, new patients, benefits, the registration desk"
        ),
        (
            "please fill in",
            "complete the fields and sign",
            "tick the right box",
            "something that I must fill out",
            "fields that are still empty",
            "answer these questions",
        ),
    ),
    "code": Words(
        split(
            "code, source code, program, computer program, script, listing, program listing, code snippet, software, "
            "function, class in a language, source file, shell script, python file, javascript, java code, c code"
        ),
        split(
            "indented lines, brackets and braces, syntax highlighting, a monospaced font, loops and functions, "
            "an editor window, line numbers, variables, indentation, keywords in colour, comments in the source"
        ),
        split(
            "the repository, a developer, a web server, an algorithm, the editor, a terminal, the library, a parser, "
            "the compiler, an app, the backend, a bug, a test"
        ),
        (
            "what the programmer wrote",
            "implementation of the algorithm",
            "screen of an editor",
            "screenshot of the terminal with a loop",
            "a method that returns a value",
        ),
    ),
    "chart": Words(
        split(
            "chart, charts, graph, plot, bar chart, line chart, pie chart, diagram, bar graph, scatter plot, curve, "
            "line graph, histogram of values, figure, visualisation, trend line, column chart"
        ),
        split(
            "axes and bars, an x axis, coloured bars, a legend, data points, a rising line, tick marks on the axes, "
            "bars of different heights, slices, a curve, an axis with labels, peaks"
        ),
        split(
            "revenue, growth, the sales figures, temperature over time, the share price, population, costs by month, "
            "the trend, market share, a distribution, frequencies, profits over the years"
        ),
        (
            "how sales developed",
            "how it grew over the years",
            "values over time drawn as a line",
            "bars for every month",
            "the distribution drawn as bars",
            "plotted data",
        ),
    ),
    "id-card": Words(
        split(
            "id card, id-card, id, ids, identity card, identification, identity document, badge, staff badge, "
            "driving licence, driver's license, membership card, student card, personal id, passport card, name badge"
        ),
        split(
            "a portrait, a passport photo, a face and a name, date of birth, a photo of the holder, "
            "a picture of a person, card number and name, a portrait on the left, a headshot"
        ),
        split(
            "the employee, a student, the visitor, the driver, a citizen, the holder, a member, the staff, "
            "the guard, someone, the owner, a person, the company's worker"
        ),
        (
            "who is this person",
            "proof of identity",
            "card with a face on it",
            "plastic card that shows who somebody is",
            "licence to drive",
            "small card with name and photo",
        ),
    ),
    "ticket": Words(
        split(
            "ticket, tickets, boarding card, admission ticket, entry ticket, bus ticket, concert ticket, "
            "flight ticket, cinema ticket, admission, pass, entry pass, ticket stub, stub, railway ticket, "
            "travel ticket"
        ),
        split(
            "seat and row, a tear-off stub, gate and seat, a perforated edge, a wide barcode, valid for one journey, "
            "departure and destination, admit one, a seat number, a short wide strip"
        ),
        split(
            "the train, the show, the theatre, the match, a flight, the bus, the zoo, the film, the festival, "
            "the opera, a journey, the fair, the exhibition, the gallery, the airport, the stadium"
        ),
        (
            "admit one",
            "my seat at the show",
            "let me into the theatre",
            "entrance to the exhibition",
            "my flight leaves from this gate",
            "entry to the stadium",
            "valid for one ride",
        ),
    ),
    "note": Words(
        split(
            "note, notes, handwriting, handwritten page, memo, scribble, jotted lines, reminder, to-do list, "
            "shopping list, scrap of paper, sticky note, post-it, notebook page, scrawl, quick memo, handwritten memo"
        ),
        split(
            "handwriting, ink strokes, a pen on paper, wavy lines of script, scribbles, cursive script, "
            "crossed-out words, writing by hand, a hand-drawn arrow, uneven lines, pencil marks, scrawled words"
        ),
        split(
            "my desk, the fridge, a meeting, the diary, a lecture, a colleague, the notebook, the phone call, "
            "things to buy, tomorrow, my notebook, groceries to buy, ideas"
        ),
        (
            "written by hand",
            "things to remember",
            "scribbled with a pen",
            "someone jotted this down",
            "hand-written lines",
            "penned in a hurry",
            "list in my own handwriting",
        ),
    ),
}
