// A child without a libc, or anything that returns from a signal handler, as one is for which the
// dynamic linker has not mapped its libc yet. It ends with what it reads.
#include <elf.h>
#include <sys/stat.h>
#include <cstddef>

#include "victim.h"

namespace {

constexpr unsigned char kCode[] = {
    0x48, 0x83, 0xec, 0x10,        // sub $16, %rsp
    0x31, 0xc0,                    // xor %eax, %eax
    0x31, 0xff,                    // xor %edi, %edi
    0x48, 0x89, 0xe6,              // mov %rsp, %rsi
    0xba, 0x01, 0x00, 0x00, 0x00,  // mov $1, %edx
    0x0f, 0x05,                    // syscall: read(0, %rsp, 1)
    0x0f, 0xb6, 0x3c, 0x24,        // movzbl (%rsp), %edi
    0xb8, 0x3c, 0x00, 0x00, 0x00,  // mov $60, %eax
    0x0f, 0x05,                    // syscall: exit(what it has read)
};

struct Program {
  Elf64_Ehdr header;
  Elf64_Phdr segment;
  unsigned char code[sizeof kCode];
};

void write_program(const char* path) {
  constexpr Elf64_Addr kBase = 0x10000000;
  Program program{};
  std::memcpy(program.header.e_ident, ELFMAG, SELFMAG);
  program.header.e_ident[EI_CLASS] = ELFCLASS64;
  program.header.e_ident[EI_DATA] = ELFDATA2LSB;
  program.header.e_ident[EI_VERSION] = EV_CURRENT;
  program.header.e_type = ET_EXEC;
  program.header.e_machine = EM_X86_64;
  program.header.e_version = EV_CURRENT;
  program.header.e_entry = kBase + offsetof(Program, code);
  program.header.e_phoff = offsetof(Program, segment);
  program.header.e_ehsize = sizeof(Elf64_Ehdr);
  program.header.e_phentsize = sizeof(Elf64_Phdr);
  program.header.e_phnum = 1;
  program.segment = {PT_LOAD, PF_R | PF_X, 0, kBase, kBase, sizeof program, sizeof program, 4096};
  std::memcpy(program.code, kCode, sizeof kCode);
  const int file = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0700);
  VICTIM_CHECK(write(file, &program, sizeof program) == sizeof program && close(file) == 0);
}

}  // namespace

int main() {
  write_program("bare");
  int input[2];
  VICTIM_CHECK(pipe2(input, O_CLOEXEC) == 0);
  const pid_t child = fork();
  if (child == 0) {
    VICTIM_CHECK(dup2(input[0], 0) == 0);
    execl("bare", "bare", nullptr);
    _exit(1);
  }
  VICTIM_CHECK(close(input[0]) == 0);
  victim_await_syscall(child, child, SYS_read);
  victim_ready();
  victim_wait();
  VICTIM_CHECK(unlink("bare") == 0);
  const char status = 7;
  VICTIM_CHECK(write(input[1], &status, 1) == 1);
  int how = 0;
  VICTIM_CHECK(waitpid(child, &how, 0) == child && WIFEXITED(how) && WEXITSTATUS(how) == 7);
  victim_pass();
}
