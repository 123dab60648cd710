// The element types of a matrix product, widened to float32 sixteen at a time and rounded back one at a time.
//
// Sixteen lanes are one register of AVX-512, two of AVX2, four of SSE and NEON: GCC's and Clang's vector extensions make
// the right instructions for each, as long as no vector is wider than a register. The arithmetic is the same on all.

#pragma once

#include <cstdint>
#include <cstring>

constexpr int kLanes = 16;

#if defined(__AVX512F__)
constexpr int kPartLanes = 16;
#elif defined(__AVX__)
constexpr int kPartLanes = 8;
#else
constexpr int kPartLanes = 4;
#endif
constexpr int kParts = kLanes / kPartLanes;

typedef float Part __attribute__((vector_size(4 * kPartLanes)));
typedef uint32_t Words __attribute__((vector_size(4 * kPartLanes)));
typedef uint16_t Halves __attribute__((vector_size(2 * kPartLanes)));

struct Lanes {
  Part parts[kParts];
};

struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

template <typename To, typename From>
inline To bits_of(From value) {
  static_assert(sizeof(To) == sizeof(From), "a reinterpretation keeps the size");
  To result;
  std::memcpy(&result, &value, sizeof(result));
  return result;
}

inline Part load_part(const float* from) {
  Part part;
  std::memcpy(&part, from, sizeof(part));
  return part;
}

inline Words load_halves(const void* from) {
  Halves halves;
  std::memcpy(&halves, from, sizeof(halves));
  return __builtin_convertvector(halves, Words);
}

inline Part load_part(const Bf16* from) { return bits_of<Part>(load_halves(from) << 16); }

inline Part load_part(const F16* from) {
  const Words halves = load_halves(from);
  const Words magnitude = (halves & 0x7FFF) << 13;
  // Multiplying by 2^112 turns f16's exponent bias into f32's, and normalises subnormals on the way.
  const Part scaled = bits_of<Part>(magnitude) * 0x1p112f;
  const Words infinite_or_nan = bits_of<Words>(magnitude >= 0x0F800000u) & 0x7F800000u;
  return bits_of<Part>(bits_of<Words>(scaled) | infinite_or_nan | (halves & 0x8000) << 16);
}

template <typename T>
inline Lanes load_lanes(const T* from) {
  Lanes lanes;
  for (int i = 0; i < kParts; ++i) lanes.parts[i] = load_part(from + i * kPartLanes);
  return lanes;
}

// The first `count` elements and zeros: never reads beyond the end of an allocation.
template <typename T>
inline Lanes load_some(const T* from, int count) {
  T some[kLanes] = {};
  std::memcpy(some, from, count * sizeof(T));
  return load_lanes(some);
}

inline float to_float(float value) { return value; }
inline float to_float(Bf16 value) { return bits_of<float>(uint32_t(value.bits) << 16); }
inline float to_float(F16 value) { return load_some(&value, 1).parts[0][0]; }

// Both roundings are to nearest, ties to even; a NaN stays one.
inline void store(float* to, float value) { *to = value; }

inline void store(Bf16* to, float value) {
  const uint32_t bits = bits_of<uint32_t>(value);
  const bool is_nan = (bits & 0x7FFFFFFF) > 0x7F800000;
  to->bits = is_nan ? 0x7FC0 : uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

inline uint16_t f16_magnitude(uint32_t magnitude) {
  if (magnitude > 0x7F800000) return 0x7E00;
  if (magnitude >= bits_of<uint32_t>(65520.0f)) return 0x7C00;
  if (magnitude < bits_of<uint32_t>(0x1p-14f)) {
    // The last place of 0.5f is 2^-24, f16's smallest subnormal: the addition itself does the rounding.
    return uint16_t(bits_of<uint32_t>(bits_of<float>(magnitude) + 0.5f) - bits_of<uint32_t>(0.5f));
  }
  return uint16_t((magnitude + 0xFFF + (magnitude >> 13 & 1) - (112u << 23)) >> 13);
}

inline void store(F16* to, float value) {
  const uint32_t bits = bits_of<uint32_t>(value);
  to->bits = uint16_t(bits >> 16 & 0x8000) | f16_magnitude(bits & 0x7FFFFFFF);
}
