#!/usr/bin/env python3
"""Holds the sources to the layers of docs: who may include whom, and what is never done where.

    tools/check_layers.py [--root DIR] [--layers build/dev/layers.json]

The table of folders (their levels and declared dependencies) is layers.json, which
cmake/layers.cmake writes when configuring; without --layers the newest build/*/layers.json is read.

The textual rules look at code without comments and, but for `proc`, without string literals. Unit
tests (*_test.cc) and src/*/testing_*.h are held to the includes, the length and the style rules,
not to what a layer may call. Where a rule is wrong for one line, say why on it or just above:

    // check_layers: allow proc: the kernel gives this number nowhere else
"""
import argparse
import json
import pathlib
import re
import sys

MAX_LINES = 800
SUFFIXES = {".h", ".hpp", ".c", ".cc", ".S"}
# Not in the table: app sees everything, library (it runs inside other people's processes) abi only.
APP, LIBRARY, PUBLIC = "app", "library", "telefork"
MAY_SEE_PUBLIC = {"abi", APP, LIBRARY}

# (these folders, never include these folders)
NEVER_INCLUDE = [
    ({"capture"}, {"restore", "net"}),
    ({"restore"}, {"capture", "net"}),
    ({"image"}, {"net", "tracee"}),
    ({"net"}, {"image", "tracee"}),
]

ARCHITECTURES = (r"__(?:x86_64|amd64|i386|i686|aarch64|arm|riscv|powerpc\w*|ppc\w*|s390x?|mips\w*|loongarch\w*)__"
                 r"|\b__riscv\b|_M_X64|_M_ARM64")
ENDS_AND_PRINTS = r"(?:exit|quick_exit|printf|fprintf|vprintf|vfprintf|puts|fputs|perror|getenv)"
NOT_A_MEMBER = r"(?<![\w.>:])(?:std\s*::\s*|::\s*)?"

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
ALLOW = re.compile(r"check_layers:\s*allow\s+(\w+):\s*\S")


class Source:
    """One file: its lines as they are, without comments, and without strings as well."""

    def __init__(self, path, folder, text):
        self.path = path
        self.folder = folder
        self.is_test = path.name.endswith("_test.cc") or path.name.startswith("testing")
        self.raw = text.splitlines()
        without_comments, code, self.literals = strip(text)
        self.lines = without_comments.splitlines()
        self.code = code.splitlines()

    def allows(self, rule, number):
        """Whether line `number` (from 1), or a comment just above it, lets the rule be broken."""
        nearby = self.raw[number - 1:number]
        above = number - 2
        while above >= 0 and self.raw[above].lstrip().startswith("//"):
            nearby.append(self.raw[above])
            above -= 1
        return any(match.group(1) == rule for line in nearby for match in ALLOW.finditer(line))


TOKEN = re.compile(
    r'(?P<comment>//(?:\\\n|[^\n])*|/\*.*?\*/)'
    r'|(?P<raw>\b(?:u8|[uUL])?R"(?P<delimiter>[^()\\\s]{0,16})\((?P<body>.*?)\)(?P=delimiter)")'
    r'|(?P<string>"(?:\\.|[^"\\\n])*")'
    r"|(?P<number>\b\d[\w']*)"
    r"|(?P<char>'(?:\\.|[^'\\\n])+')", re.S)


def blank(text):
    return re.sub(r"[^\n]", " ", text)


def strip(text):
    """-> (text without comments, that without string contents, [(line number, string)])."""
    no_comments, no_strings, literals, position = [], [], [], 0
    line = 1
    for match in TOKEN.finditer(text):
        between = text[position:match.start()]
        no_comments.append(between)
        no_strings.append(between)
        line += between.count("\n")
        token = match.group()
        if match.group("comment"):
            no_comments.append(blank(token))
            no_strings.append(blank(token))
        elif match.group("raw") or match.group("string"):
            body = match.group("body") if match.group("raw") else token[1:-1]
            literals.append((line, body))
            no_comments.append(token)
            no_strings.append('"' + blank(token)[1:-1] + '"')
        else:
            no_comments.append(token)
            no_strings.append(token)
        line += token.count("\n")
        position = match.end()
    no_comments.append(text[position:])
    no_strings.append(text[position:])
    return "".join(no_comments), "".join(no_strings), literals


class Checker:
    def __init__(self, table):
        self.table = table
        self.found = []

    def report(self, source, number, rule, message):
        if not source.allows(rule, number):
            self.found.append(f"{source.path}:{number}: [{rule}] {message}")

    def may_see(self, folder):
        if folder == APP:
            return set(self.table) | {APP, PUBLIC}
        if folder == LIBRARY:
            return {LIBRARY, "abi", PUBLIC}
        seen = {folder} | set(self.table[folder]["depends"])
        return seen | ({PUBLIC} if folder in MAY_SEE_PUBLIC else set())

    def check_table(self):
        for name, entry in self.table.items():
            for folders, forbidden in NEVER_INCLUDE:
                for other in forbidden & set(entry["depends"]) if name in folders else ():
                    self.found.append(f"src/CMakeLists.txt: [never] {name} must never depend on {other}")

    def check(self, source):
        if source.folder not in self.table and source.folder not in (APP, LIBRARY):
            self.report(source, 1, "table", f"src/{source.folder} is not declared in src/CMakeLists.txt")
            return
        self.check_includes(source)
        self.check_style(source)
        if not source.is_test:
            self.check_calls(source)
            self.check_proc(source)

    def check_includes(self, source):
        allowed = self.may_see(source.folder)
        for number, line in enumerate(source.lines, 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            bracket, name = match.groups()
            if bracket == "<":
                self.check_system_header(source, number, name)
                continue
            target = name.split("/")[0] if "/" in name else None
            if target is None or target in (".", ".."):
                self.report(source, number, "include", f'"{name}": include paths start at src/')
                continue
            for folders, forbidden in NEVER_INCLUDE:
                if source.folder in folders and target in forbidden:
                    self.report(source, number, "never", f"{source.folder} must never include {target}")
                    break
            else:
                if target not in allowed:
                    self.report(source, number, "include",
                                f"{source.folder} may not include {target}: "
                                "it is not among its dependencies in src/CMakeLists.txt")

    def check_system_header(self, source, number, name):
        if name == "iostream" and source.folder != APP:
            self.report(source, number, "iostream", "no iostream below app")
        if name in ("sys/ptrace.h", "linux/ptrace.h") and source.folder in ("image", "net"):
            self.report(source, number, "ptrace", f"{source.folder} never sees ptrace")

    def check_style(self, source):
        if len(source.raw) > MAX_LINES:
            self.report(source, MAX_LINES + 1, "length",
                        f"{len(source.raw)} lines; a file has {MAX_LINES} at most")
        is_header = source.path.suffix == ".h"
        if is_header and not any(line.startswith("#pragma once") for line in source.lines):
            self.report(source, 1, "pragma", "a header begins with #pragma once")
        for number, line in enumerate(source.code, 1):
            if re.match(r"\s*#\s*(?:if|ifdef|ifndef|elif)\b", line) and re.search(ARCHITECTURES, line):
                self.report(source, number, "architecture",
                            "no #if on the architecture: architecture code is by file")
            if is_header and re.match(r"\s*using\s+namespace\b", line):
                self.report(source, number, "using", "no `using namespace` in a header")

    def check_calls(self, source):
        for number, line in enumerate(source.code, 1):
            if source.folder != "tracee" and re.search(NOT_A_MEMBER + r"ptrace\s*\(", line):
                self.report(source, number, "ptrace", "ptrace(2) is called in src/tracee only")
            if source.folder != "kernel" and re.search(r"\bUFFDIO_\w+|<linux/userfaultfd\.h>", line):
                self.report(source, number, "userfaultfd", "userfaultfd's ioctls are in src/kernel only")
            if source.folder == APP:
                continue
            match = re.search(NOT_A_MEMBER + "(" + ENDS_AND_PRINTS + r")\s*\(", line)
            if not match and source.folder != LIBRARY:
                match = re.search(NOT_A_MEMBER + r"(secure_getenv)\s*\(", line)
            if match:
                self.report(source, number, "process",
                            f"{match.group(1)}() below app: only app ends, prints and reads the environment")

    def check_proc(self, source):
        """Text of /proc is read in kernel only. A descriptor's or the program's own path is not
        text: it is how a file is opened or executed again."""
        if source.folder == "kernel":
            return
        for number, text in source.literals:
            if re.search(r"/proc/(?!self/(?:fd\b|exe\b))", text):
                self.report(source, number, "proc", f'"{text}": /proc is read in src/kernel only')


def newest_table(root):
    tables = sorted(root.glob("build/*/layers.json"), key=lambda path: path.stat().st_mtime)
    if not tables:
        sys.exit("check_layers: no build/*/layers.json; configure first (make build)")
    return tables[-1]


def check_tree(root, table):
    """Every broken rule of the tree as one line of text."""
    checker = Checker(table)
    checker.check_table()
    count = 0
    for path in sorted((root / "src").rglob("*")):
        parts = path.relative_to(root / "src").parts
        if path.suffix not in SUFFIXES or len(parts) < 2 or not path.is_file():
            continue
        count += 1
        checker.check(Source(path.relative_to(root), parts[0], path.read_text()))
    return checker.found, count


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=pathlib.Path,
                        default=pathlib.Path(__file__).resolve().parent.parent)
    parser.add_argument("--layers", type=pathlib.Path)
    options = parser.parse_args()
    table = json.loads((options.layers or newest_table(options.root)).read_text())
    found, count = check_tree(options.root, table)
    for line in found:
        print(line)
    print(f"check_layers: {count} files, {len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
