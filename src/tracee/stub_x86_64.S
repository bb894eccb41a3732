// The stub: runs a program of system calls inside a stopped process (stub_abi.h).
//
// Position-independent, uses no stack beyond what the caller's rsp gives, and nothing of the
// process but its own pages. On entry: rbx = StubProgram, rsp = top of the stub's stack; a new
// thread enters by clone with its StubProgram's address on top of its stack.
//
//   rbx program   r12 current step   r13 steps left   r14 first step   r15 -> 0: steps, 1: undo

#define PROGRAM_STEPS 0
#define PROGRAM_UNDO_STEPS 8
#define PROGRAM_COUNT 16
#define PROGRAM_UNDO_COUNT 20
#define PROGRAM_FAILED 24
#define PROGRAM_STOP_SIGNAL 28
#define PROGRAM_PID 32
#define PROGRAM_TID 36
#define PROGRAM_DONE_COUNTER 40
#define PROGRAM_GATE 48
#define PROGRAM_FRAME 56
#define PROGRAM_HOLD 64

#define STEP_NUMBER 0
#define STEP_SUCCESS 4
#define STEP_FROM_RESULT 8
#define STEP_ARGS 16
#define STEP_EXPECTED 64
#define STEP_RESULT 72
#define STEP_SIZE 80

#define OP_ADD 0x10000
#define OP_WAIT 0x10001
#define OP_LOAD 0x10002
#define OP_COPY 0x10003
#define OP_USE_TILE 0x10004
#define OP_JUMP 0x10005
#define OP_LOAD_LONG 0x10006

#define SYS_rt_sigreturn 15
#define SYS_clone 56
#define SYS_futex 202
#define SYS_clone3 435
#define SYS_tgkill 234
#define FUTEX_WAIT 0
#define FUTEX_WAKE 1

    .section .rodata.telefork_stub, "a", @progbits
    .balign 64
    .globl telefork_stub_begin
    .globl telefork_stub_stop
    .globl telefork_stub_end
telefork_stub_begin:
    cld
    mov PROGRAM_STEPS(%rbx), %r14
    mov PROGRAM_COUNT(%rbx), %r13d
    xor %r15d, %r15d
    movl $0xffffffff, PROGRAM_FAILED(%rbx)

.Lrun:
    mov %r14, %r12
.Lnext:
    test %r13d, %r13d
    jz .Lfinished
    call .Lload_arguments
    mov STEP_NUMBER(%r12), %eax
    cmp $OP_ADD, %eax
    je .Ladd
    cmp $OP_WAIT, %eax
    je .Lwait
    cmp $OP_LOAD, %eax
    je .Lload
    cmp $OP_COPY, %eax
    je .Lcopy
    cmp $OP_USE_TILE, %eax
    je .Luse_tile
    cmp $OP_JUMP, %eax
    je .Ljump
    cmp $OP_LOAD_LONG, %eax
    je .Lload_long
    syscall
    test %rax, %rax
    jnz .Lstore
    cmpl $SYS_clone, STEP_NUMBER(%r12)
    je .Lnew_thread
    cmpl $SYS_clone3, STEP_NUMBER(%r12)
    jne .Lstore
.Lnew_thread:
    // The new thread (or process): its own program lies on top of its own stack.
    pop %rbx
    jmp telefork_stub_begin

.Ladd:
    lock addl %esi, (%rdi)
    mov $FUTEX_WAKE, %esi
    mov $0x7fffffff, %edx
    mov $SYS_futex, %eax
    syscall
    xor %eax, %eax
    jmp .Lstore

.Lcopy:
    mov %rdx, %rcx
    rep movsb
    xor %eax, %eax
    jmp .Lstore

// Only what touches a tile's data makes the kernel give it room (#NM by IA32_XFD).
.Luse_tile:
    ldtilecfg (%rdi)
    tilezero %tmm0
    tilerelease
    xor %eax, %eax
    jmp .Lstore

.Ljump:
    xor %eax, %eax
    cmp %rdx, %rsi
    jne .Lstore
    sub %edi, %r13d
    imul $STEP_SIZE, %rdi, %rdi
    add %rdi, %r12
    jmp .Lnext

.Lload:
    movslq (%rdi), %rax
    jmp .Lstore

.Lload_long:
    mov (%rdi), %rax
    jmp .Lstore

.Lwait:
    mov (%rdi), %edx
    cmp %esi, %edx
    je .Lwait_over
    mov %rsi, %r8
    mov $FUTEX_WAIT, %esi
    xor %r10d, %r10d
    mov $SYS_futex, %eax
    syscall
    mov %r8, %rsi
    jmp .Lwait
.Lwait_over:
    xor %eax, %eax

.Lstore:
    mov %rax, STEP_RESULT(%r12)
    mov STEP_SUCCESS(%r12), %ecx
    test %ecx, %ecx
    jz .Lno_error
    cmp $1, %ecx
    jne .Lsucceeded
    cmp STEP_EXPECTED(%r12), %rax
    je .Lsucceeded
    jmp .Lfailed
.Lno_error:
    cmp $-4095, %rax
    jae .Lfailed
.Lsucceeded:
    add $STEP_SIZE, %r12
    dec %r13d
    jmp .Lnext

.Lfailed:
    test %r15d, %r15d
    jnz .Lsucceeded
    mov PROGRAM_COUNT(%rbx), %eax
    sub %r13d, %eax
    mov %eax, PROGRAM_FAILED(%rbx)

.Lfinished:
    test %r15d, %r15d
    jnz .Lundone
    mov PROGRAM_DONE_COUNTER(%rbx), %rdi
    test %rdi, %rdi
    jz .Lgate
    lock incl (%rdi)
    mov $FUTEX_WAKE, %esi
    mov $0x7fffffff, %edx
    mov $SYS_futex, %eax
    syscall
.Lgate:
    mov PROGRAM_GATE(%rbx), %rdi
    call .Lpass
    // No signal to use: system call -1, which is nothing, but an entry stop for a tracer that
    // watches system calls.
    mov $-1, %rax
    mov PROGRAM_STOP_SIGNAL(%rbx), %edx
    test %edx, %edx
    jz .Lannounce
    mov PROGRAM_PID(%rbx), %edi
    mov PROGRAM_TID(%rbx), %esi
    mov $SYS_tgkill, %eax
.Lannounce:
    syscall
telefork_stub_stop:
    // A tracer sets other registers here. Going on means that there is none any more.
    nop
    mov PROGRAM_HOLD(%rbx), %rdi
    call .Lpass
    mov PROGRAM_UNDO_STEPS(%rbx), %r14
    mov PROGRAM_UNDO_COUNT(%rbx), %r13d
    mov $1, %r15d
    jmp .Lrun
.Lundone:
    mov PROGRAM_FRAME(%rbx), %rsp
    mov $SYS_rt_sigreturn, %eax
    syscall
    hlt

// Sleeps until the u32 at rdi is not 0; rdi 0: does not.
.Lpass:
    test %rdi, %rdi
    jz .Lpassed
    cmpl $0, (%rdi)
    jne .Lpassed
    mov $FUTEX_WAIT, %esi
    xor %edx, %edx
    xor %r10d, %r10d
    mov $SYS_futex, %eax
    syscall
    jmp .Lpass
.Lpassed:
    ret

// Loads args[0..5] of the step at r12 into the registers of the system call. An argument whose bit
// is set in from_result is an index (low 16 bits) and an addend (the rest). Undo steps name results
// of the steps too.
.Lload_arguments:
    mov PROGRAM_STEPS(%rbx), %r10
    mov STEP_FROM_RESULT(%r12), %ebp
    lea STEP_ARGS(%r12), %r11
    xor %ecx, %ecx
.Largument:
    mov (%r11,%rcx,8), %rax
    bt %ecx, %ebp
    jnc .Lplain
    movzwl %ax, %edx
    sar $16, %rax
    imul $STEP_SIZE, %rdx, %rdx
    add STEP_RESULT(%r10,%rdx), %rax
.Lplain:
    push %rax
    inc %ecx
    cmp $6, %ecx
    jne .Largument
    pop %r9
    pop %r8
    pop %r10
    pop %rdx
    pop %rsi
    pop %rdi
    ret
telefork_stub_end:
    .section .note.GNU-stack, "", @progbits
