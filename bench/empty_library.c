/* What linking with any library costs: startup_bench's floor. */
__attribute__((visibility("default"))) int empty_library(const char* text);
int empty_library(const char* text) { return text != 0; }
