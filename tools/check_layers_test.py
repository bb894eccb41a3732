#!/usr/bin/env python3
"""Proves that each rule of check_layers.py fails on a made-up violation, and only then."""
import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import check_layers

TABLE = {
    "abi": {"level": 0, "depends": []},
    "base": {"level": 0, "depends": []},
    "kernel": {"level": 1, "depends": ["base"]},
    "image": {"level": 1, "depends": ["base"]},
    "net": {"level": 1, "depends": ["base"]},
    "tracee": {"level": 2, "depends": ["base", "kernel"]},
    "capture": {"level": 3, "depends": ["base", "kernel", "image", "tracee"]},
    "restore": {"level": 3, "depends": ["base", "kernel", "image", "tracee"]},
}


class Layers(unittest.TestCase):
    def rules(self, path, text, table=TABLE):
        """The names of the rules that a tree with this one file breaks."""
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            (root / path).parent.mkdir(parents=True)
            (root / path).write_text(text)
            found, count = check_layers.check_tree(root, table)
            self.assertEqual(count, 1)
        return [line.split("[")[1].split("]")[0] for line in found]

    def breaks(self, rule, path, text, table=TABLE):
        self.assertEqual(self.rules(path, text, table), [rule])

    def passes(self, path, text, table=TABLE):
        self.assertEqual(self.rules(path, text, table), [])

    def test_a_folder_includes_itself_and_its_dependencies(self):
        self.passes("src/kernel/a.cc", '#include "kernel/a.h"\n#include "base/error.h"\n')

    def test_an_upward_include_is_found(self):
        self.breaks("include", "src/base/a.cc", '#include "kernel/procfs.h"\n')

    def test_an_undeclared_downward_include_is_found(self):
        self.breaks("include", "src/kernel/a.cc", '#include "abi/agent.h"\n')

    def test_a_neighbour_is_found(self):
        self.breaks("include", "src/kernel/a.cc", '#include "image/record.h"\n')

    def test_an_include_in_a_unit_test_is_found_too(self):
        self.breaks("include", "src/base/a_test.cc", '#include "kernel/procfs.h"\n')

    def test_an_include_in_a_comment_is_not_one(self):
        self.passes("src/base/a.cc", '// #include "kernel/procfs.h"\n/*\n#include "net/tcp.h"\n*/\n')

    def test_an_include_without_a_folder_is_found(self):
        self.breaks("include", "src/base/a.cc", '#include "error.h"\n')
        self.breaks("include", "src/base/a.cc", '#include "../base/error.h"\n')

    def test_app_sees_everything_but_the_library(self):
        self.passes("src/app/main.cc", '#include "capture/a.h"\n#include "restore/a.h"\n#include "app/x.h"\n')
        self.breaks("include", "src/app/main.cc", '#include "library/agent.h"\n')

    def test_the_library_sees_abi_and_the_public_headers_only(self):
        self.passes("src/library/a.cc", '#include "abi/agent.h"\n#include "telefork/telefork.h"\n')
        self.breaks("include", "src/library/a.cc", '#include "base/error.h"\n')

    def test_the_public_headers_are_not_for_the_layers(self):
        self.breaks("include", "src/base/a.cc", '#include "telefork/telefork.h"\n')

    def test_a_folder_that_is_not_declared_is_found(self):
        self.breaks("table", "src/attic/a.cc", "int a;\n")

    def test_capture_and_restore_never_meet_whatever_the_table_says(self):
        self.breaks("never", "src/capture/a.cc", '#include "restore/memory.h"\n')
        self.breaks("never", "src/restore/a.cc", '#include "capture/memory.h"\n')

    def test_capture_and_restore_never_know_net(self):
        self.breaks("never", "src/capture/a.cc", '#include "net/tcp.h"\n')
        self.breaks("never", "src/restore/a.cc", '#include "net/tcp.h"\n')

    def test_image_and_net_never_see_each_other_nor_tracee(self):
        for folder, other in (("image", "net"), ("net", "image"), ("image", "tracee"), ("net", "tracee")):
            self.breaks("never", f"src/{folder}/a.cc", f'#include "{other}/a.h"\n')

    def test_a_table_that_declares_what_must_never_be_is_found(self):
        table = dict(TABLE, restore={"level": 4, "depends": ["capture"]})
        self.breaks("never", "src/base/a.cc", "int a;\n", table)

    def test_image_and_net_never_see_ptrace_headers(self):
        self.breaks("ptrace", "src/image/a.cc", "#include <sys/ptrace.h>\n")
        self.breaks("ptrace", "src/net/a.cc", "#include <sys/ptrace.h>\n")

    def test_ptrace_is_called_in_tracee_only(self):
        text = "long f() { return ::ptrace(PTRACE_CONT, 1, 0, 0); }\n"
        self.passes("src/tracee/a.cc", text)
        self.breaks("ptrace", "src/capture/a.cc", text)
        self.breaks("ptrace", "src/app/a.cc", text)
        self.passes("src/capture/a.cc", '// ptrace(2)\nconst char* a = "ptrace(PTRACE_CONT)";\n')

    def test_userfaultfd_is_in_kernel_only(self):
        text = "int f(int fd) { return ioctl(fd, UFFDIO_COPY, 0); }\n"
        self.passes("src/kernel/a.cc", text)
        self.breaks("userfaultfd", "src/restore/a.cc", text)

    def test_proc_is_read_in_kernel_only(self):
        text = 'auto a = open("/proc/1/maps");\n'
        self.passes("src/kernel/a.cc", text)
        self.breaks("proc", "src/capture/a.cc", text)
        self.breaks("proc", "src/app/a.cc", 'auto a = R"(/proc/{}/status)";\n')

    def test_paths_of_descriptors_and_of_oneself_are_not_text_of_proc(self):
        self.passes("src/restore/a.cc", 'auto a = "/proc/self/fd/7";\nauto b = "/proc/self/exe";\n')
        self.passes("src/restore/a.cc", "// /proc/1/maps\n")

    def test_proc_is_read_by_unit_tests(self):
        self.passes("src/restore/a_test.cc", 'auto a = "/proc/self/maps";\n')

    def test_architecture_conditions_are_found_everywhere(self):
        for line in ("#if defined(__x86_64__)", "#ifdef __aarch64__", "# elif __riscv"):
            self.breaks("architecture", "src/kernel/a.cc", line + "\n#endif\n")
            self.breaks("architecture", "src/app/a.cc", line + "\n#endif\n")
        self.passes("src/kernel/a.cc", "#if defined(__clang__)\n#endif\n")

    def test_iostream_is_for_app(self):
        self.breaks("iostream", "src/base/a.cc", "#include <iostream>\n")
        self.passes("src/app/a.cc", "#include <iostream>\n")

    def test_nothing_below_app_ends_prints_or_reads_the_environment(self):
        for call in ("exit(1)", "std::exit(1)", "::exit (1)", 'printf("a")', 'std::fprintf(stderr, "a")',
                     'getenv("A")', 'std::puts("a")', 'secure_getenv("A")'):
            self.breaks("process", "src/kernel/a.cc", f"void f() {{ {call}; }}\n")
            self.passes("src/app/a.cc", f"void f() {{ {call}; }}\n")
            self.passes("src/kernel/a_test.cc", f"void f() {{ {call}; }}\n")

    def test_what_only_looks_like_an_end_or_a_print_passes(self):
        self.passes("src/kernel/a.cc",
                    'void f() { _exit(1); snprintf(b, 1, "exit(1)"); loop.exit(); on_exit(); x->puts(); }\n')

    def test_the_library_may_use_secure_getenv_and_no_more(self):
        self.passes("src/library/a.cc", 'void f() { secure_getenv("A"); }\n')
        self.breaks("process", "src/library/a.cc", 'void f() { getenv("A"); }\n')
        self.breaks("process", "src/library/a.cc", "void f() { exit(1); }\n")

    def test_long_files_are_found(self):
        self.passes("src/base/a.cc", "\n" * 800)
        self.breaks("length", "src/base/a.cc", "\n" * 801)

    def test_headers_have_pragma_once_and_no_using_namespace(self):
        self.passes("src/base/a.h", "// Why.\n#pragma once\n")
        self.breaks("pragma", "src/base/a.h", "// #pragma once\n")
        self.breaks("using", "src/base/a.h", "#pragma once\nusing namespace std;\n")

    def test_an_exception_needs_its_rule_and_a_reason(self):
        line = 'auto a = open("/proc/1/maps");'
        self.passes("src/net/a.cc", f"{line}  // check_layers: allow proc: for a test\n")
        self.passes("src/net/a.cc", f"// check_layers: allow proc: for a test,\n// a long one\n{line}\n")
        self.breaks("proc", "src/net/a.cc", f"{line}  // check_layers: allow proc:\n")
        self.breaks("proc", "src/net/a.cc", f"{line}  // check_layers: allow ptrace: another rule\n")

    def test_strings_comments_and_separators_do_not_confuse_it(self):
        self.passes("src/base/a.cc", 'int a = 1\'000; char q = \'"\'; const char* s = "// \\" exit(1)";\n')
        self.breaks("process", "src/base/a.cc", "char q = '\"'; void f() { exit(1); } // \"\n")

    def test_the_command_fails_and_says_where(self):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            (root / "src/base").mkdir(parents=True)
            (root / "build/dev").mkdir(parents=True)
            (root / "build/dev/layers.json").write_text('{"base": {"level": 0, "depends": []}}')
            (root / "src/base/a.cc").write_text('\n#include "net/tcp.h"\n')
            run = subprocess.run([sys.executable, check_layers.__file__, "--root", folder],
                                 capture_output=True, text=True)
        self.assertEqual(run.returncode, 1)
        self.assertIn("src/base/a.cc:2: [include]", run.stdout)


if __name__ == "__main__":
    unittest.main()
