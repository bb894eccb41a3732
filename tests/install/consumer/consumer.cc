// The C++ skin compiles and links; with an argument it would fork there.
#include <cstdio>
#include <telefork/telefork.hpp>

int main(int argc, char** argv) {
  if (argc > 1) telefork::fork(argv[1]);
  std::puts("consumer: ok");
}
