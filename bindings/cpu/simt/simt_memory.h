// Loads and stores with a caching hint, which is all that sets them apart from plain ones, and address
// conversions.
#pragma once

template <typename T>
inline T __ldg(const T* address) {
  return *address;
}
template <typename T>
inline T __ldca(const T* address) {
  return *address;
}
template <typename T>
inline T __ldcg(const T* address) {
  return *address;
}
template <typename T>
inline T __ldcs(const T* address) {
  return *address;
}
template <typename T>
inline T __ldlu(const T* address) {
  return *address;
}
template <typename T>
inline T __ldcv(const T* address) {
  return *static_cast<const volatile T*>(address);
}
template <typename T>
inline void __stwb(T* address, T value) {
  *address = value;
}
template <typename T>
inline void __stcg(T* address, T value) {
  *address = value;
}
template <typename T>
inline void __stcs(T* address, T value) {
  *address = value;
}
template <typename T>
inline void __stwt(T* address, T value) {
  *address = value;
}

// A CPU has one address space.
inline size_t __cvta_generic_to_shared(const void* address) { return reinterpret_cast<size_t>(address); }
inline size_t __cvta_generic_to_global(const void* address) { return reinterpret_cast<size_t>(address); }
