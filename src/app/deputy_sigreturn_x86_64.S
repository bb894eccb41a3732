// The way in for a stub (tracee/stub.h), which a libc has for the return from a signal handler.
// This one is linked in only where something catches signals, and the deputy catches none.

#define SYS_rt_sigreturn 15

    .text
    mov $SYS_rt_sigreturn, %eax
    syscall
    hlt
    .section .note.GNU-stack, "", @progbits
