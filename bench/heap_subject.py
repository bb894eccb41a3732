#!/usr/bin/env python3
"""What is moved where content counts: a heap as programs have it, of SIZE_IN_MB. It says `ready`, and ends
when its standard input does.

    heap_subject.py SIZE_IN_MB ...      # what follows is move_subject's, and nothing here
"""
import random
import sys

chance = random.Random(1)
WORDS = ["".join(chance.choices("etaoinshrdlu", k=chance.randint(2, 9))) for _ in range(5000)]


def resident_mb():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) >> 8


rows = []
while resident_mb() < int(sys.argv[1]):
    for _ in range(1000):
        rows.append({"id": len(rows), "name": " ".join(chance.choices(WORDS, k=8)), "weight": chance.random(),
                     "seen": [chance.randrange(1 << 40) for _ in range(4)]})
sys.stdout.write("ready\n")  # by one write(2)
sys.stdout.flush()
sys.stdin.read()
