"""Draws texts that describe a kind of page, from words and templates; some words are left out or spelled wrongly."""

from __future__ import annotations

import string

import numpy as np

from naflex_deploy.demo.text.queries import QUERIES
from naflex_deploy.demo.text.words import WORDS, Words, split

TEMPLATES = (
    "{name}",
    "{name}",
    "a {name}",
    "the {name}",
    "any {name}",
    "{adjective} {name}",
    "a {adjective} {name}",
    "{name} with {mark}",
    "a {name} with {mark}",
    "{name} from {topic}",
    "{name} for {topic}",
    "{name} of {topic}",
    "{name} to {topic}",
    "{name} about {topic}",
    "{name} showing {mark}",
    "{mark}",
    "{mark} and {mark}",
    "a page with {mark}",
    "paper with {mark}",
    "{ask}",
    "{ask}",
    "{lead} {name}",
    "{lead} the {name}",
    "{lead} a {name} with {mark}",
    "{lead} the {name} from {topic}",
    "{name}, {mark}",
    "{name}, {mark}, {topic}",
    "{adjective} {name} with {mark} from {topic}",
)
"""A template is chosen by chance, and so is each of its words."""

LEADS = split(
    "find, show me, where is, search for, i need, look for, picture of, photo of, scan of, image of, get, list, give me"
)
ADJECTIVES = split(
    "old, new, scanned, printed, small, large, long, short, wide, narrow, recent, crumpled, coloured, blank, simple, "
    "official, last, other, german, english, faded, unpaid, annual, monthly, typed, formal, important, private"
)
HELD_OUT = frozenset(query.lower() for queries in QUERIES.values() for query in queries)


def draw_text(rng: np.random.Generator, kind: str) -> str:
    """Draw a text that describes a kind of page, none of `QUERIES`."""
    while True:
        text = _damaged(rng, _filled(rng, WORDS[kind]))
        if text and text.lower() not in HELD_OUT:
            return text


def _filled(rng: np.random.Generator, words: Words) -> str:
    parts = {
        "name": words.names,
        "mark": words.marks,
        "topic": words.topics,
        "ask": words.asks,
        "lead": LEADS,
        "adjective": ADJECTIVES,
    }
    text = str(rng.choice(TEMPLATES))
    for part, choices in parts.items():
        while f"{{{part}}}" in text:
            text = text.replace(f"{{{part}}}", str(rng.choice(choices)), 1)
    return text


def _damaged(rng: np.random.Generator, text: str) -> str:
    """The text, of which now and then a word is left out or made up, or a letter is wrong."""
    words = text.split()
    chance = rng.random()
    if chance < 0.15 and len(words) > 2:
        words.pop(rng.integers(len(words)))
    elif chance < 0.35:
        length = int(rng.integers(2, 9))
        made_up = "".join(rng.choice(list(string.ascii_lowercase), length))
        words.insert(int(rng.integers(len(words) + 1)), made_up)
    elif chance < 0.42:
        place = int(rng.integers(len(words)))
        word = words[place]
        if len(word) > 4:
            letter = int(rng.integers(1, len(word)))
            words[place] = word[:letter] + word[letter + 1 :]
    return " ".join(words)
