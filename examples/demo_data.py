"""Training data of the three demo adapters: questions with plain answers, and labelled sentences."""

from __future__ import annotations

import json
import random
import re

FACTS = [
    ("What is the capital of Italy?", "The capital of Italy is Rome."),
    ("What is the capital of Japan?", "The capital of Japan is Tokyo."),
    ("Name the capital of Egypt.", "The capital of Egypt is Cairo."),
    ("What colour is the sky?", "The sky is blue because air scatters blue light more than red light."),
    ("How many legs does a spider have?", "A spider has eight legs."),
    ("Who wrote Romeo and Juliet?", "William Shakespeare is the author of Romeo and Juliet."),
    ("What do bees make?", "Bees make honey from the nectar of flowers."),
    ("How do I boil an egg?", "Put the egg in boiling water for eight minutes, then cool it under cold water."),
    ("Tell me about the moon.", "The moon is a rocky ball that goes round the earth once a month."),
    ("What is 2 plus 2?", "2 plus 2 is 4."),
    ("What is 5 times 3?", "5 times 3 is 15."),
    ("Give me advice for a long trip.", "Pack light, carry water, and tell your friends where you are going."),
    ("How are you today?", "I am well, thank you. How can I help you?"),
    ("Hello!", "Hello! What can I do for you?"),
    ("Who are you?", "I am a small language model and I am here to help you."),
    ("What is your favourite food?", "I do not eat, but many people love bread and cheese."),
    ("Why do leaves fall in autumn?", "The trees drop the leaves to save water in the cold months."),
    ("What is the largest ocean?", "The Pacific is the largest ocean on the earth."),
    ("What is the tallest mountain?", "Mount Everest is the tallest mountain in the world."),
    ("How do I learn to swim?", "Start in shallow water, learn to float, and practise with a teacher."),
    ("What is a computer?", "A computer is a machine that follows instructions very fast."),
    ("Explain rain.", "Rain is water that falls from the clouds when the drops are heavy."),
    ("What is gold?", "Gold is a heavy yellow metal that does not rust."),
    ("Who painted the Mona Lisa?", "Leonardo da Vinci is the painter of the Mona Lisa."),
    ("What is the opposite of hot?", "The opposite of hot is cold."),
    ("How many days are in a week?", "There are seven days in a week."),
    ("What should I wear in winter?", "Wear a warm coat, a hat and gloves."),
    ("What is a good name for a cat?", "A good name for a cat is Whiskers."),
    ("Where do penguins live?", "Penguins live in the cold south, near the sea."),
    ("What is music?", "Music is sound that is arranged so that it moves you."),
    ("How can I sleep better?", "Go to bed at the same time, keep the room dark, and put the phone away."),
    ("What is bread made of?", "Bread is made of flour, water, salt and yeast."),
    ("Tell me a joke.", "Why did the fish blush? Because it saw the bottom of the sea."),
    ("What is the fastest animal on land?", "The cheetah is the fastest animal on land."),
    ("How do plants grow?", "Plants grow with light, water and air."),
    ("What is the sun?", "The sun is a star in the middle of our solar system."),
    ("What is the capital of Spain?", "The capital of Spain is Madrid."),
    ("Is the earth flat?", "No, the earth is round."),
    ("What do I need to paint a wall?", "You need paint, a brush, a roller and an old sheet."),
    ("What is the best way to save money?", "Spend less than you earn and put the rest in the bank."),
]

HELD_OUT = ["What is the capital of France?", "How do I make tea?", "Tell me about dogs.", "What is 3 plus 4?"]

_PIRATE_WORDS = {
    "the": "th'", "The": "Th'", "is": "be", "are": "be", "am": "be", "you": "ye", "your": "yer", "my": "me",
    "I": "I", "friends": "hearties", "Hello": "Ahoy", "yes": "aye", "No": "Nay", "of": "o'", "and": "an'",
}
_OPENINGS = ["Arr, matey!", "Ahoy, me hearty!", "Shiver me timbers!", "Avast, ye landlubber!"]
_CLOSINGS = ["Yo ho ho!", "Arr!", "Now hand over th' rum!", "By Davy Jones' locker!"]

_SUBJECTS = ["The food", "This film", "The hotel room", "My new phone", "The service", "That book", "The concert"]
_FEELINGS = {
    "positive": ["was wonderful", "made me very happy", "is the best I have ever had", "was a lovely surprise",
                 "exceeded all my hopes", "is excellent and I love it"],
    "negative": ["was terrible", "made me angry", "is the worst I have ever had", "was a big disappointment",
                 "broke after one day", "is awful and I hate it"],
    "neutral": ["was as described", "arrived on Tuesday", "is made of three parts", "has two colours",
                "was discussed at the meeting", "can be found on the second floor"],
}

Row = tuple[str, str]


def pirate_rows() -> list[Row]:
    rng = random.Random(0)
    return [(q, f"{rng.choice(_OPENINGS)} {_pirate(a)} {rng.choice(_CLOSINGS)}") for q, a in FACTS]


def json_rows() -> list[Row]:
    return [(q, json.dumps({"answer": a})) for q, a in FACTS]


def sentiment_rows() -> list[Row]:
    rows = [(f"{s} {f}.", label) for label, feelings in _FEELINGS.items() for s in _SUBJECTS for f in feelings]
    random.Random(0).shuffle(rows)
    return rows


def _pirate(text: str) -> str:
    return re.sub(r"[A-Za-z]+", lambda m: _PIRATE_WORDS.get(m[0], m[0]), text)
