/* The C interface links and runs; with an argument it would fork there. */
#include <stdio.h>
#include <telefork/telefork.h>

int main(int argc, char** argv) {
  if (argc > 1 && telefork_fork(argv[1]) < 0) {
    fprintf(stderr, "%s\n", telefork_error());
    return 1;
  }
  puts("consumer: ok");
  return 0;
}
