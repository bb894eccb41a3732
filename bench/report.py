#!/usr/bin/env python3
"""What a run of tools/bench has measured: medians, the floors of the same run beside them, and the targets.

    bench/report.py SAMPLES BUILD JSON [--load AVERAGE] [--failed NAME]... [--skipped NAME NEED]...

SAMPLES has one JSON object a line, as the benchmarks' programs print them; records of the same kind and
parameters are put together. The table goes to stdout, the same and all samples to the file JSON.
docs/benchmarks.md explains the figures.
"""
import argparse
import datetime
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
MB = 1 << 20
GB = 1 << 30


def read_text(path, otherwise=""):
    try:
        return pathlib.Path(path).read_text()
    except OSError:
        return otherwise


def first_match(pattern, text, otherwise="?"):
    match = re.search(pattern, text, re.M)
    return match.group(1).strip() if match else otherwise


def output_of(*command):
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    return run.stdout.strip() if run.returncode == 0 else ""


def machine_facts():
    cpu = read_text("/proc/cpuinfo")
    memory = first_match(r"^MemTotal:\s+(\d+)", read_text("/proc/meminfo"), "0")
    huge = read_text("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "cpu": first_match(r"^model name\s*:\s*(.*)", cpu, os.uname().machine),
        "cpus": os.cpu_count(),
        "memory_gb": round(int(memory) / MB, 1),
        "kernel": os.uname().release,
        "virtual": bool(re.search(r"^flags.*\bhypervisor\b", cpu, re.M)),
        "huge_pages": first_match(r"\[(\w+)\]", huge),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def build_facts(folder):
    cache = read_text(folder / "CMakeCache.txt")
    compiler = first_match(r"^CMAKE_CXX_COMPILER:\w+=(.*)", cache, "c++")
    commit = output_of("git", "rev-parse", "--short", "HEAD") or "?"
    if output_of("git", "status", "--porcelain", "--untracked-files=no"):
        commit += " with changes"
    return {
        "commit": commit,
        "type": first_match(r"^CMAKE_BUILD_TYPE:\w+=(.*)", cache),
        "compiler": (output_of(compiler, "--version").splitlines() or ["?"])[0],
    }


def merge(records):
    """Puts the samples of records of the same kind and parameters together."""
    merged = {}
    for record in records:
        key = tuple(record.get(k) for k in ("bench", "node", "size", "pages", "mode", "build", "wrote", "threads",
                                             "more_mappings", "processes", "compress", "keeps", "repeat")) + (
            any(k.startswith("peak_bytes") for k in record),)
        if key not in merged:
            merged[key] = dict(record)
            continue
        for name, value in record.items():
            if isinstance(value, list):
                merged[key][name] = merged[key][name] + value
    return list(merged.values())


def summary(samples):
    if len(samples) < 2:
        return {"median": samples[0], "low": samples[0], "high": samples[0], "trials": len(samples)}
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high, "trials": len(samples)}


def size_text(size):
    return f"{size / GB:g} GB" if size >= GB else f"{size / MB:g} MB"


def time_text(milliseconds):
    if milliseconds is None:
        return "-"
    return f"{milliseconds:.{2 if milliseconds < 10 else 1 if milliseconds < 1000 else 0}f} ms"


def rate_text(bytes_a_second):
    return f"{bytes_a_second / GB:.2f} GB/s"


def process_text(record):
    return f"{size_text(record['size'])}, {'huge' if record['pages'] == 'huge' else '4 KB'} pages"


class Report:
    """Sections of a table, and the same as a list of results."""

    def __init__(self, records):
        self.records = merge(records)
        self.sections = []
        self.results = []

    def find(self, bench, **fields):
        return [r for r in self.records
                if r["bench"] == bench and all(r.get(k) == v for k, v in fields.items())]

    def timed_forks(self, node="unix", mode="eager"):
        return [r for r in self.find("fork", node=node, mode=mode) if "away_held_ms" in r]

    def floor_of(self, kind, record):
        """The floor's record for the same memory as the record's; None when it was not measured."""
        return next((f for f in self.find(kind, size=record["size"])
                     if f.get("pages", record["pages"]) == record["pages"]), None)

    def carried(self, kind, record):
        floor = self.floor_of(kind, record)
        return floor and summary(floor["carry_ms"])

    def section(self, title, columns, rows):
        if rows:
            self.sections.append((title, columns, rows))

    def result(self, bench, record, **fields):
        known = {k: record[k] for k in ("node", "size", "pages", "build") if k in record}
        self.results.append({"bench": bench, **known, **fields})

    def add_held(self):
        rows = []
        for r in self.timed_forks():
            away, local = summary(r["away_held_ms"]), summary(r["local_held_ms"])
            limit = 1.3 * local["median"] + 1
            met = away["median"] <= limit
            rows.append([process_text(r), time_text(away["median"]), time_text(local["median"]),
                         f"{away['median'] / local['median']:.2f}", f"<= {time_text(limit)}", met])
            self.result("parent_held_up", r, measured_ms=away, floor_ms=local,
                        ratio=away["median"] / local["median"], target="<= 1.3 x floor + 1 ms",
                        limit_ms=limit, met=met, first_call_ms=r["opening_held_ms"])
        self.section("How long the call holds up the parent, and fork() of the same process",
                     ["process", "telefork", "fork()", "ratio", "target", "met"], rows)

    def add_first_instruction(self):
        rows = []
        for r in self.timed_forks():
            away, local = summary(r["away_first_instruction_ms"]), summary(r["local_first_instruction_ms"])
            floor = self.carried("floor_whole", r)
            small = r["size"] == MB
            met = away["median"] <= 10 if small else None
            rows.append([process_text(r), time_text(away["median"]),
                         time_text(floor and floor["median"]), time_text(local["median"]),
                         f"{away['median'] / floor['median']:.2f}" if floor else "-",
                         "<= 10 ms" if small else "", met])
            self.result("first_instruction", r, measured_ms=away, floor_ms=floor, fork_ms=local,
                        ratio=away["median"] / floor["median"] if floor else None,
                        target="<= 10 ms" if small else None, met=met,
                        first_call_ms=r["opening_first_instruction_ms"])
        self.section("From the call to the child's first instruction (floor: fork, exec, memory carried)",
                     ["process", "telefork", "floor", "fork()", "ratio", "target", "met"], rows)

    def add_lazy(self):
        rows, touched = [], []
        for r in self.timed_forks(mode="lazy"):
            away, local = summary(r["away_first_instruction_ms"]), summary(r["local_first_instruction_ms"])
            limit = 4 + local["median"]
            met = away["median"] <= limit
            rows.append([process_text(r), time_text(away["median"]), time_text(local["median"]),
                         f"<= {time_text(limit)}", met])
            self.result("lazy_first_instruction", r, measured_ms=away, fork_ms=local,
                        target="<= 4 ms + fork()", limit_ms=limit, met=met)
            floor = self.carried("floor_carry", r)
            if floor is None:
                continue
            all_read = summary(r["away_touched_ms"])
            share = floor["median"] / all_read["median"]
            judged = r["size"] == GB
            touched.append([process_text(r), time_text(all_read["median"]), time_text(floor["median"]),
                            f"{share:.0%}", ">= 60 %" if judged else "", share >= 0.6 if judged else None])
            self.result("lazy_all_read", r, measured_ms=all_read, floor_ms=floor, ratio=share,
                        target=">= 0.6" if judged else None, met=share >= 0.6 if judged else None)
        self.section("Lazy: from the call to the child's first instruction",
                     ["process", "telefork", "fork()", "target", "met"], rows)
        self.section("Lazy: from the call until the child has read all of it (floor: all of it carried)",
                     ["process", "telefork", "floor", "share", "target", "met"], touched)

    def add_faults(self):
        rows = []
        for r in self.find("fault"):
            served, bare = summary(r["fault_ms"]), summary(r["bare_ms"])
            ratio = served["median"] / bare["median"]
            rows.append(["4 KB", f"{served['median'] * 1000:.0f} us", f"{bare['median'] * 1000:.0f} us", f"{ratio:.2f}",
                         "<= 1.5", ratio <= 1.5])
            self.result("lazy_fault", r, measured_ms=served, floor_ms=bare, ratio=ratio, target="<= 1.5", met=ratio <= 1.5)
        self.section("Lazy: how long a process waits for one page, nothing else under way (floor: bare)",
                     ["page", "telefork", "floor", "ratio", "target", "met"], rows)

    def add_rates(self, bench, node, kind, least, title, *told):
        """Whole forks to a node beside a floor; what is `told` of the floor's record goes into the JSON as it is."""
        rows = []
        for r in self.timed_forks(node):
            record = self.floor_of(kind, r)
            if record is None:
                continue
            floor, away = summary(record["carry_ms"]), summary(r["away_first_instruction_ms"])
            # A quarter of the trials is faster: see docs/benchmarks.md.
            share = floor["low"] / away["low"]
            rates = [r["size"] / (time["low"] / 1000) for time in (away, floor)]
            judged = r["size"] == GB
            met = share >= least if judged else None
            rows.append([process_text(r), rate_text(rates[0]), rate_text(rates[1]), f"{share:.0%}",
                         f">= {least:.0%}".replace("%", " %") if judged else "", met])
            self.result(bench, r, measured_ms=away, floor_ms=floor, measured_bytes_per_s=rates[0],
                        floor_bytes_per_s=rates[1], ratio=share,
                        ratio_of_medians=floor["median"] / away["median"],
                        target=f">= {least}" if judged else None, met=met,
                        first_call_ms=r["opening_first_instruction_ms"],
                        **{name: value if isinstance(value, str) else summary(value)
                           for name, value in record.items() if name in told})
        self.section(f"Rate of a whole fork{title}; quartiles",
                     ["process", "telefork", "floor", "share", "target", "met"], rows)

    def add_bulk(self):
        self.add_rates("bulk", "unix", "floor_carry", 0.6,
                       ", call to first instruction (floor: read, send, receive, mremap)")
        self.add_rates("tls", "tls", "floor_tls", 0.7,
                       " over TLS between machines (floor: read, SSL_write, SSL_read, mremap)",
                       "cipher", "congestion_control")
        self.add_rates("ssh", "ssh", "floor_scp", 0.7,
                       " over ssh between machines (floor: scp of a file of that size, login to end)",
                       "cipher", "login_ms")

    def add_memory(self):
        rows = []
        for r in self.find("fork"):
            peaks = {k.removeprefix("peak_bytes "): v for k, v in r.items() if k.startswith("peak_bytes ")}
            for name, peak in sorted(peaks.items()):
                # The others are not bounded: the guest carries its own memory.
                judged = name in ("telefork-agent", "telefork-keeper")
                met = peak <= 64 * MB if judged else None
                if not judged and name != "telepad":
                    continue
                rows.append([f"{name}, {process_text(r)}", f"{peak / MB:.1f} MB",
                             "<= 64 MB" if judged else "", met])
                self.result("memory", r, program=name, measured_bytes=peak,
                            target="<= 64 MB" if judged else None, met=met)
        self.section("Peak resident memory while the process goes through",
                     ["program", "peak", "target", "met"], rows)

    def add_startup(self):
        builds = {r["build"]: r for r in self.find("startup")}
        if not {"plain", "empty", "linked"} <= builds.keys():
            return
        rows = []
        for name, what in (("start_ms", "start to end"), ("malloc_ms", "allocations"),
                           ("open_ms", "opens"), ("fork_ms", "forks")):
            times = {build: summary(r[name]) for build, r in builds.items()}
            ratio = times["linked"]["median"] / times["empty"]["median"]
            rows.append([what] + [time_text(times[b]["median"]) for b in ("linked", "empty", "plain")]
                        + [f"{ratio:.2f}", "", None])
            self.result("startup", {}, what=name.removesuffix("_ms"), measured_ms=times["linked"],
                        floor_ms=times["empty"], without_library_ms=times["plain"], ratio=ratio,
                        target=None, met=None)
        for name in ("threads", "fds", "mappings", "private_kb"):
            counts = {build: int(r[name]) for build, r in builds.items()}
            judged = name != "private_kb"
            met = counts["linked"] == counts["plain"] if judged else None
            rows.append([name.replace("_kb", " KB")] + [str(counts[b]) for b in ("linked", "empty", "plain")]
                        + ["", "as plain" if judged else "", met])
            self.result("startup", {}, what=name, measured=counts["linked"], floor=counts["empty"],
                        without_library=counts["plain"], target="as without" if judged else None, met=met)
        self.section("A program that never calls (linked with libtelefork, with an empty library, with none)",
                     ["", "telefork", "empty", "plain", "ratio", "target", "met"], rows)

    def add_calls(self):
        rows = []
        for r in self.find("call"):
            there, back, whole = (summary(r[k]) for k in ("there_ms", "back_ms", "whole_ms"))
            target, met, figure = "", None, whole["median"] / there["median"]
            lazy = r["mode"] == "lazy"
            if lazy:
                pass  # it has not all come when f begins
            elif r["size"] == GB and r["wrote"] == "1000 pages":
                figure = back["median"] / there["median"]
                target, met = "back <= 10 % of there", figure <= 0.1
            elif r["size"] == GB:
                limit = 1.3 if r["wrote"] == "nothing" else 2.3
                target, met = f"whole <= {limit} x there", figure <= limit
            elif r["size"] == MB and r["wrote"] == "nothing" and r["node"] == "tls":
                target, met = "whole <= 15 ms", whole["median"] <= 15
            rows.append([f"{process_text(r)}, {r['node']}{', lazy' if lazy else ''}", r["wrote"], time_text(there["median"]),
                         time_text(back["median"]), time_text(whole["median"]), target, met])
            self.result("call", r, mode=r["mode"], wrote=r["wrote"], there_ms=there, back_ms=back, whole_ms=whole,
                        ratio=figure, target=target or None, met=met)
        self.section("run_on: to the function's first instruction, from its end, both",
                     ["process", "f writes", "there", "back", "whole", "target", "met"], rows)

    def add_again(self):
        """A call whose memory the node has kept, beside one pass over that memory, and beside a node that keeps nothing."""
        rows = []
        for r in self.find("again"):
            call, function, hashed = summary(r["call_ms"]), summary(r["f_ms"]), summary(r["hash_ms"])
            repeats = r["repeat"] == "yes"
            limit, target, met = 15 if repeats else 1.3 * hashed["median"] + 15, "", None
            if r["keeps"] == "yes" and r["size"] == GB:
                target, met = f"<= {time_text(limit)}", call["median"] <= limit
            rows.append([f"{process_text(r)}, {r['node']}, {r['mode']}", "repeat" if repeats else r["keeps"],
                         time_text(call["median"]), time_text(function["median"]), time_text(hashed["median"]),
                         target, met])
            self.result("again", r, mode=r["mode"], keeps=r["keeps"], repeat=r["repeat"], measured_ms=call, f_ms=function,
                        floor_ms=hashed, target=("<= 15 ms" if repeats else "<= 1.3 x floor + 15 ms") if target else None,
                        limit_ms=limit, met=met)
        self.section("run_on called again, beyond f, which writes to 1000 pages (floor: the memory read and hashed)",
                     ["process", "kept", "call", "f", "floor", "target", "met"], rows)

    def add_moves(self):
        """A program of 1 MB and one thread; then what 1000 mappings, or 63 threads, take more; a tree."""
        moves = {(r["threads"], r["more_mappings"], r["processes"]): r for r in self.find("move") if not r["writes"]}
        alone = moves.get((1, 0, 1))
        if not alone:
            return
        least = summary(alone["freeze_ms"])["median"]
        rows, steps = [], []
        for (threads, mappings, processes), r in moves.items():
            freeze, check = summary(r["freeze_ms"]), summary(r["check_ms"])
            what = (f"{threads:g} threads" if threads > 1 else f"{mappings:g} mappings more" if mappings
                    else f"{processes:g} processes" if processes > 1 else "1 thread")
            floor = None
            more = " more" if threads > 1 or mappings else ""
            if threads > 1:
                floor = summary([a + b for a, b in zip(r["floor_freeze_ms"], r["floor_threads_ms"])])
                limit, figure = 1.5 * floor["median"], freeze["median"] - least
            elif mappings:
                limit, figure = 15, freeze["median"] - least
            else:
                limit, figure = 10 if r is alone else 200, freeze["median"]
            target = f"<= {time_text(limit)}{more}"
            rows.append([f"{size_text(r['size'])}, {what}", time_text(freeze["median"]),
                         time_text(floor and floor["median"]), target, figure <= limit])
            parameters = {"threads": threads, "more_mappings": mappings, "processes": processes}
            self.result("move", r, **parameters, freeze_ms=freeze, floor_ms=floor, figure_ms=figure,
                        limit_ms=limit, target=target, met=figure <= limit,
                        command_ms=summary(r["command_ms"]))
            rows.append(["check of it", time_text(check["median"]), "-", "<= 100 ms",
                         check["median"] <= 100])
            self.result("check", r, **parameters, measured_ms=check, target="<= 100 ms",
                        met=check["median"] <= 100)
            shares = {name.removeprefix("step ").removesuffix("_ms"): summary(times)["median"]
                      for name, times in r.items() if name.startswith("step ")}
            steps.append((what, shares))
        self.section("move: how long the program stands still (floor: to stop and read its threads, and to "
                     "begin as many)", ["process", "telefork", "floor", "target", "met"], rows)
        # A tree has more steps than one process.
        names = list(max((shares for _, shares in steps), key=len))
        self.section("move: what each step took, from the one before it", ["process"] + names,
                     [[what] + [time_text(shares.get(name)) for name in names] for what, shares in steps])

    def add_live(self):
        """A program that writes all the time: how long it does not, as it says itself."""
        rows = []
        for r in self.find("move"):
            if not r["writes"]:
                continue
            gap, freeze, command = (summary(r[name]) for name in ("gap_ms", "freeze_ms", "command_ms"))
            live = r["mode"] == "live"
            met = gap["median"] <= 10 if live else None
            rows.append([f"{size_text(r['size'])}, {r['mode']}", time_text(gap["median"]),
                         time_text(freeze["median"]), time_text(command["median"]),
                         "<= 10 ms" if live else "-", met])
            self.result("live", r, mode=r["mode"], writes_per_second=r["writes"], downtime_ms=gap,
                        freeze_ms=freeze, command_ms=command, target="<= 10 ms" if live else None, met=met)
        if rows:
            self.section("live: a program that writes 20,000 pages a second moves while it runs, and as a whole",
                         ["process", "it did not run for", "frozen for", "command", "target", "met"], rows)

    def add_clone(self):
        """Of a server with clients: what they get meanwhile."""
        for r in self.find("live clone"):
            share, freeze = summary(r["percent"]), summary(r["freeze_ms"])
            own = summary(r["bgsave_percent"])
            command, saving, loading = (summary(r[name]) for name in ("command_ms", "bgsave_ms", "load_ms"))
            self.result("clone", r, served_percent=share, freeze_ms=freeze, command_ms=command,
                        bgsave_percent=own, bgsave_ms=saving, load_ms=loading, target=">= 60 %, <= 20 ms",
                        met=share["median"] >= 60 and freeze["median"] <= 20)
            self.section("clone: a redis-server with clients; beside it its own BGSAVE, and a server that loads that",
                         ["what", "clone", "BGSAVE", "target", "met"],
                         [["served meanwhile, of undisturbed", f"{share['median']:.0f} %", f"{own['median']:.0f} %",
                           ">= 60 %", share["median"] >= 60],
                          ["it stood still", time_text(freeze["median"]), "-", "<= 20 ms", freeze["median"] <= 20],
                          [f"{size_text(r['size'])}, until it is there", time_text(command["median"]),
                           f"{time_text(saving['median'])} + {time_text(loading['median'])}", "-", None]])

    def add_compressed(self):
        """A heap over a slow link, by codec."""
        moves = {r["compress"]: r for r in self.find("compressed move")}
        if "none" not in moves:
            return
        plain = summary(moves["none"]["command_ms"])["median"]
        rows = []
        for codec, r in moves.items():
            command, sent = summary(r["command_ms"]), r["percent_sent"]
            rows.append([f"{size_text(r['size'])}, {codec}", time_text(command["median"]),
                         f"{command['median'] / plain:.2f}", f"{sent:.0f} %"])
            self.result("compress", r, compress=codec, bwlimit=r["bwlimit"], command_ms=command,
                        sent_percent=sent, ratio=command["median"] / plain)
        self.section("compress: a heap that moves by a link of 117 MB/s (--bwlimit)",
                     ["process", "command", "of none", "bytes"], rows)

    def make(self):
        self.add_held()
        self.add_first_instruction()
        self.add_bulk()
        self.add_calls()
        self.add_again()
        self.add_lazy()
        self.add_faults()
        self.add_live()
        self.add_clone()
        self.add_compressed()
        self.add_moves()
        self.add_memory()
        self.add_startup()


def print_section(title, columns, rows):
    shown = [[{True: "yes", False: "NO", None: ""}.get(cell, cell) if not isinstance(cell, str) else cell
              for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [columns] + shown) for i in range(len(columns))]
    print(f"\n{title}")
    for row in [columns] + shown:
        first, *others = zip(row, widths)
        line = "  " + first[0].ljust(first[1]) + "".join("  " + cell.rjust(width) for cell, width in others)
        print(line.rstrip())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("samples", type=pathlib.Path)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("json", type=pathlib.Path)
    parser.add_argument("--load", type=float, help="the load average before the run")
    parser.add_argument("--failed", action="append", default=[])
    parser.add_argument("--skipped", action="append", default=[], nargs=2, metavar=("NAME", "NEED"))
    arguments = parser.parse_args()

    records = [json.loads(line) for line in arguments.samples.read_text().splitlines() if line]
    machine, build = machine_facts(), build_facts(arguments.build)
    machine["load_before"] = arguments.load
    report = Report(records)
    report.make()

    print(f"\n{machine['cpu']}{', virtual' if machine['virtual'] else ''}: {machine['cpus']} CPUs, "
          f"{machine['memory_gb']} GB; Linux {machine['kernel']}, huge pages {machine['huge_pages']}")
    print(f"commit {build['commit']}, {build['type']}, {build['compiler']}; "
          f"load before the run {machine['load_before']}; {machine['date']}")
    print("medians, where nothing else is said; every floor is of this run")
    for section in report.sections:
        print_section(*section)
    for name, need in arguments.skipped:
        print(f"\n{name}: left out; needs: {need}")
    for name in arguments.failed:
        print(f"\n{name}: FAILED")
    arguments.json.write_text(json.dumps(
        {"version": 1, "machine": machine, "build": build, "results": report.results,
         "failed": arguments.failed,
         "skipped": [{"name": name, "needs": need} for name, need in arguments.skipped],
         "samples": report.records}, indent=1) + "\n")
    return 1 if arguments.failed else 0


if __name__ == "__main__":
    sys.exit(main())
