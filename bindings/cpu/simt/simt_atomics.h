// Atomic read-modify-write. Real atomics, since blocks run on several OS threads; relaxed, as on a GPU, so
// ordering between blocks needs a fence. Each returns the old value.
#pragma once

namespace simt {

// Applies `change` to *address by compare-and-swap on the bits.
template <typename T, typename Change>
inline T atomic_change(T* address, Change change) {
  using Bits =
      std::conditional_t<sizeof(T) == 4, uint32_t, std::conditional_t<sizeof(T) == 8, uint64_t, uint16_t>>;
  static_assert(sizeof(Bits) == sizeof(T));
  Bits* target = reinterpret_cast<Bits*>(address);
  Bits seen = __atomic_load_n(target, __ATOMIC_RELAXED);
  for (;;) {
    const T old = from_bits<T>(seen);
    const Bits wanted = static_cast<Bits>(to_bits<T>(change(old)));
    if (__atomic_compare_exchange_n(target, &seen, wanted, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
      return old;
  }
}

template <typename T>
using same = std::common_type_t<T>;  // keeps the second argument from taking part in deduction

}  // namespace simt

template <typename T>
inline T atomicAdd(T* address, simt::same<T> value) {
  return simt::atomic_change(address, [&](T old) { return T(old + value); });
}
template <typename T>
inline T atomicSub(T* address, simt::same<T> value) {
  return simt::atomic_change(address, [&](T old) { return T(old - value); });
}
template <typename T>
inline T atomicMax(T* address, simt::same<T> value) {
  return simt::atomic_change(address, [&](T old) { return old < value ? value : old; });
}
template <typename T>
inline T atomicMin(T* address, simt::same<T> value) {
  return simt::atomic_change(address, [&](T old) { return value < old ? value : old; });
}
template <typename T>
inline T atomicAnd(T* address, simt::same<T> value) {
  return simt::atomic_change(address, [&](T old) { return T(old & value); });
}
template <typename T>
inline T atomicOr(T* address, simt::same<T> value) {
  return simt::atomic_change(address, [&](T old) { return T(old | value); });
}
template <typename T>
inline T atomicXor(T* address, simt::same<T> value) {
  return simt::atomic_change(address, [&](T old) { return T(old ^ value); });
}
template <typename T>
inline T atomicExch(T* address, simt::same<T> value) {
  return simt::atomic_change(address, [&](T) { return value; });
}
template <typename T>
inline T atomicCAS(T* address, simt::same<T> expected, simt::same<T> value) {
  return simt::atomic_change(address, [&](T old) { return old == expected ? value : old; });
}

// Counts up to `limit` and then starts again at 0.
inline unsigned atomicInc(unsigned* address, unsigned limit) {
  return simt::atomic_change(address, [&](unsigned old) { return old >= limit ? 0 : old + 1; });
}
// Counts down to 0 and then starts again at `limit`.
inline unsigned atomicDec(unsigned* address, unsigned limit) {
  return simt::atomic_change(address,
                             [&](unsigned old) { return old == 0 || old > limit ? limit : old - 1; });
}
