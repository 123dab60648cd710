// The table of kernels that a compiled module offers. nvrtc.py appends to the source, for each kernel in it,
// SIMT_KERNEL(name, max_threads), and at the end SIMT_MODULE(&simt_kernel_name, ...).
#pragma once

#include <type_traits>
#include <utility>

namespace simt {

struct Parameter {
  size_t offset;
  size_t size;
};

struct Kernel {
  const char* name;
  void (*entry)(void** arguments);
  const Parameter* parameters;
  int num_parameters;
  int max_threads;
};

// The layout that CUDA gives a kernel's parameters: each at the next multiple of its alignment.
template <typename... P>
struct ParameterTable {
  Parameter entries[sizeof...(P) + 1] = {};

  constexpr explicit ParameterTable(void (*)(P...)) {
    const size_t sizes[] = {sizeof(P)..., 0};
    const size_t alignments[] = {alignof(P)..., 1};
    size_t end = 0;
    for (size_t i = 0; i < sizeof...(P); ++i) {
      entries[i].offset = (end + alignments[i] - 1) / alignments[i] * alignments[i];
      entries[i].size = sizes[i];
      end = entries[i].offset + sizes[i];
    }
  }
};

// Calls `kernel` with the arguments that cuLaunchKernel was given: a pointer to each, into the host's memory.
template <auto kernel, typename... P, size_t... I>
[[gnu::no_sanitize_thread]] inline void call_unpacked(void (*)(P...), void** arguments,
                                                      std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_const_t<P>*>(arguments[I])...);
}

template <auto kernel, typename... P>
inline void call(void (*signature)(P...), void** arguments) {
  call_unpacked<kernel>(signature, arguments, std::index_sequence_for<P...>());
}

template <typename... P>
constexpr int count_parameters(void (*)(P...)) {
  return sizeof...(P);
}

}  // namespace simt

#define SIMT_KERNEL(name, max_threads)                                                     \
  static void simt_entry_##name(void** arguments) { simt::call<&name>(&name, arguments); } \
  static constexpr simt::ParameterTable simt_parameters_##name(&name);                     \
  static constexpr simt::Kernel simt_kernel_##name = {                                     \
      #name, simt_entry_##name, simt_parameters_##name.entries, simt::count_parameters(&name), max_threads};

#ifdef SIMT_CHECKED
#define SIMT_IS_CHECKED 1
#else
#define SIMT_IS_CHECKED 0
#endif

#define SIMT_MODULE(...)                                                                  \
  extern "C" {                                                                            \
  __attribute__((visibility("default"))) extern const int simt_is_checked;                \
  const int simt_is_checked = SIMT_IS_CHECKED;                                            \
  __attribute__((visibility("default"))) extern const simt::Kernel* const simt_kernels[]; \
  const simt::Kernel* const simt_kernels[] = {__VA_ARGS__ __VA_OPT__(, ) nullptr};        \
  }
