// telefork-blank: the process that becomes a guest. It has no libc, no thread control block, no
// rseq area and no data: nothing of it has to be undone. Its keeper traces it from its exec on and
// runs everything through the stub; if it is ever left alone it does nothing at all.

#define SYS_rt_sigreturn 15
#define SYS_pause 34

    .text
    .globl _start
_start:
    mov $SYS_pause, %eax
    syscall
    jmp _start

    // The way in for the stub: what a libc has for the return from a signal handler.
    mov $SYS_rt_sigreturn, %eax
    syscall
    hlt
    .section .note.GNU-stack, "", @progbits
