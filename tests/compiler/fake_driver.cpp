// A libcuda.so.1 for tests: it has a version, a status and a number of GPUs, and no GPU.
//
// FAKE_VERSION, FAKE_INIT and FAKE_COUNT in the environment say what it answers. With -DBEFORE_CUDA_12 it lacks
// cuGetProcAddress_v2, by which newer programs look its functions up.
#include <cstdlib>
#include <cstring>

namespace {
int setting(const char* name) { return std::atoi(std::getenv(name)); }
}  // namespace

extern "C" int cuDriverGetVersion(int* version) {
  *version = setting("FAKE_VERSION");
  return 0;
}

extern "C" int cuInit(unsigned) { return setting("FAKE_INIT"); }

extern "C" int cuDeviceGetCount(int* count) {
  *count = setting("FAKE_COUNT");
  return 0;
}

#ifndef BEFORE_CUDA_12
extern "C" int cuGetProcAddress_v2(const char* name, void** function, int, unsigned long long, void*) {
  *function = nullptr;
  if (!std::strcmp(name, "cuDriverGetVersion")) *function = reinterpret_cast<void*>(cuDriverGetVersion);
  if (!std::strcmp(name, "cuInit")) *function = reinterpret_cast<void*>(cuInit);
  if (!std::strcmp(name, "cuDeviceGetCount")) *function = reinterpret_cast<void*>(cuDeviceGetCount);
  return *function ? 0 : 500;  // CUDA_ERROR_NOT_FOUND
}
#endif
