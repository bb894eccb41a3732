"""The programs that real_test.py moves: what they are to do, and what they are given for it."""
import dataclasses
import random
import subprocess
import sys
import typing

PYTHON = """
import collections, queue, sys, threading
lines, counted = queue.Queue(100), collections.Counter()
lock = threading.Lock()
def count():
    while (line := lines.get()) is not None:
        with lock:
            counted.update(line.split())
threads = [threading.Thread(target=count) for _ in range(4)]
for thread in threads: thread.start()
for line in sys.stdin: lines.put(line)
for thread in threads: lines.put(None)
for thread in threads: thread.join()
print(sorted(counted.items()), threading.active_count())
sys.exit(3)
"""
PERL = """
my (%count, $last);
while (<STDIN>) { $count{$_}++ for split; $last = $_; }
print map { "$_ $count{$_}\\n" } sort keys %count;
print $last; exit 5;
"""
BASH = """
declare -A count
while read -r -a words; do for word in "${words[@]}"; do ((++count[$word])); done; done
for word in "${!count[@]}"; do echo "$word ${count[$word]}"; done
exit 7
"""
AWK = "{ for (i = 1; i <= NF; ++i) ++n[$i] } END { for (w in n) s += n[w] * length(w); print NR, s; exit 9 }"

RUBY = """
lines, counts, lock = SizedQueue.new(100), Hash.new(0), Mutex.new
threads = 4.times.map do
  Thread.new do
    while (line = lines.pop) != :end
      line.split.each { |word| lock.synchronize { counts[word] += 1 } }
    end
  end
end
while (line = STDIN.gets) do lines << line end
4.times { lines << :end }
threads.each(&:join)
counts.sort.each { |word, count| puts "#{word} #{count}" }
exit 6
"""
PHP = """
while (($line = fgets(STDIN)) !== false) {
  foreach (explode(" ", trim($line)) as $word) $counts[$word] = ($counts[$word] ?? 0) + 1;
}
ksort($counts);
foreach ($counts as $word => $count) echo "$word $count\\n";
exit(8);
"""
# Its library computes in threads of its own, beside the interpreter's.
NUMPY = """
import sys, threading
import numpy
numbers = numpy.zeros((40, 40))
lock = threading.Lock()
def add(block):
    global numbers
    with lock:
        numbers = (numbers @ block + block.T) % 97
def work(lines):
    for at in range(0, len(lines), 40):
        add(numpy.array([[len(word) + ord(word[-1]) for word in line * 4] for line in lines[at:at + 40]],
                        dtype=float))
while lines := [line.split() for line in (sys.stdin.readline() for _ in range(160)) if line]:
    halves = [threading.Thread(target=work, args=(half,)) for half in (lines[:80], lines[80:])]
    for half in halves:
        half.start()
        half.join()
print(numbers.sum(), numpy.linalg.matrix_rank(numbers), numbers.trace())
sys.exit(2)
"""
# Compiled as it runs by several threads of V8's own.
NODE = """
const counts = new Map();
let rest = "", sum = 0;
process.stdin.setEncoding("utf8");
process.stdin.on("data", (text) => {
  const lines = (rest + text).split("\\n");
  rest = lines.pop();
  for (const line of lines) for (const word of line.split(" ")) {
    counts.set(word, (counts.get(word) ?? 0) + 1);
    for (let i = 0; i < word.length; ++i) sum = (sum * 31 + word.charCodeAt(i)) | 0;
  }
});
process.stdin.on("end", () => {
  console.log(JSON.stringify([...counts].sort()), sum);
  process.exitCode = 10;
});
"""
JAVA = """
import java.io.*;
import java.util.*;
import java.util.concurrent.*;
class Count {
  public static void main(String[] none) throws Exception {
    var lines = new BufferedReader(new InputStreamReader(System.in));
    var counts = new ConcurrentHashMap<String, Integer>();
    var pool = Executors.newFixedThreadPool(20);
    for (String line; (line = lines.readLine()) != null;) {
      final String text = line;
      pool.submit(() -> { for (String word : text.split(" ")) counts.merge(word, 1, Integer::sum); });
    }
    pool.shutdown();
    pool.awaitTermination(60, TimeUnit.SECONDS);
    System.gc();
    System.out.println(new TreeMap<>(counts));
    System.exit(4);
  }
}
"""
MUSL = """
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static struct { char name[32]; int count; } words[512];
static int used;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void* count(void* unused) {
  char word[32];
  while (scanf("%31s", word) == 1) {
    pthread_mutex_lock(&lock);
    int i = 0;
    while (i < used && strcmp(words[i].name, word) != 0) ++i;
    if (i == used) strcpy(words[used++].name, word);
    ++words[i].count;
    pthread_mutex_unlock(&lock);
  }
  return unused;
}
static int compare(const void* a, const void* b) { return strcmp(a, b); }
int main(void) {
  pthread_t threads[4];
  signal(SIGPIPE, SIG_IGN);
  for (int i = 0; i < 4; ++i) pthread_create(&threads[i], NULL, count, NULL);
  for (int i = 0; i < 4; ++i) pthread_join(threads[i], NULL);
  qsort(words, used, sizeof words[0], compare);
  for (int i = 0; i < used; ++i) printf("%s %d\\n", words[i].name, words[i].count);
  return 11;
}
"""


def text_of(lines):
    words = [f"word{i}" for i in range(500)]
    seed = random.Random(17)
    return "".join(" ".join(seed.choices(words, k=10)) + "\n" for _ in range(lines)).encode()


def statements(lines):
    """One transaction of SQL, with savepoints in it."""
    inserts = [f"INSERT INTO words VALUES ({i}, '{line}');\n"
               for i, line in enumerate(text_of(lines).decode().splitlines())]
    return ("CREATE TABLE words (number INTEGER PRIMARY KEY, text TEXT UNIQUE);\n"
            "BEGIN;\nSAVEPOINT one;\n" + "".join(inserts) +
            "SELECT count(*), sum(number), max(text) FROM words;\nROLLBACK TO one;\n"
            "SELECT count(*) FROM words;\nCOMMIT;\n.exit 12\n").encode()


# Of no worth but here.
AGE_KEY = "AGE-SECRET-KEY-1Z4U47ADD92MW22AAM4W60W9GCTCLC70WW548SWKPLQ43E2V8VYUSXDZQ2R"
AGE_RECIPIENT = "age16xy2ya5ay74z9r9kxtl5e7r6sn4nctw2j0mxvtvdt4hz497egcmsk3scku"


def sealed(lines):
    """What `age` decrypts with that key."""
    return subprocess.run(["age", "-r", AGE_RECIPIENT], check=True, input=text_of(lines),
                          capture_output=True).stdout


def frames(lines):
    """So many grey pictures of 320 x 240 points, which move."""
    row = bytes(i * i % 251 for i in range(1024))
    return b"".join(row[(i * 3 + y) % 512:][:320] for i in range(lines) for y in range(240))


def functions(lines):
    """C, whose translation takes a moment and says much."""
    return b"".join(b"int f%d(int *a, int n) { int s = %d; for (int i = 0; i < n; ++i) "
                    b"s += a[i] * %d ^ (s >> i %% 7); return s; }\n" % (i, i, i + 3)
                    for i in range(lines))


@dataclasses.dataclass
class Program:
    command: list
    text: typing.Callable[[int], bytes] = text_of
    lines: int = 60000  # so many that they take a moment
    # Moved when it can say no more before somebody listens, having read all; else with half of the
    # text.
    full: bool = False
    files: dict = dataclasses.field(default_factory=dict)  # in its folder
    build: list = None  # makes it there


def cc1():
    return subprocess.run(["gcc", "-print-prog-name=cc1"], check=True, capture_output=True,
                          text=True).stdout.strip()


SMALL = {
    "xz": Program(["xz", "-T2", "-3", "--block-size=256KiB", "-c"]),
    "gzip": Program(["gzip", "-c"]),
    "sort": Program(["sort", "-S", "8M"]),
    "sha256sum": Program(["sha256sum"]),
    "python3": Program([sys.executable, "-c", PYTHON], lines=20000),
    "perl": Program(["perl", "-e", PERL]),
    "bash": Program(["bash", "-c", BASH], lines=3000),
    "awk": Program(["awk", AWK]),
    "sqlite3": Program(["sqlite3"], statements, 20000),
    "ruby": Program(["ruby", "-e", RUBY], lines=10000),
    "php": Program(["php", "-r", PHP]),
    "numpy": Program(["/usr/bin/python3", "-c", NUMPY], lines=16000),
    "age": Program(["age", "-d", "-i", "key"], sealed, files={"key": AGE_KEY + "\n"}),  # Go
    "cc1": Program([cc1(), "-quiet", "-O2", "-", "-o", "-"], functions, 300, full=True),
    "musl": Program(["./count"], lines=20000, files={"count.c": MUSL},
                    build=["musl-gcc", "-static", "-O2", "-o", "count", "count.c"]),
}
# Each takes as long to install as all of those above.
LARGE = {
    "node": Program(["node", "-e", NODE]),
    "java": Program(["java", "Count.java"], files={"Count.java": JAVA}),
    "ffmpeg": Program(["ffmpeg", "-v", "error", "-nostdin", "-f", "rawvideo", "-pix_fmt", "gray",
                       "-s", "320x240", "-i", "-", "-c:v", "mpeg4", "-threads", "2", "-fflags",
                       "+bitexact", "-flags", "+bitexact", "-f", "matroska", "-"], frames, 300),
}
