// What a kernel is compiled with when one of its threads is inspected (nvrtc.py defines SIMT_INSPECTED).
//
// instrument.py adds calls of these functions to the kernel's text. For the thread that is inspected they tell the
// recorder (../recorder) what it did and which values it has; for all others they do nothing.
#pragma once

#ifdef SIMT_INSPECTED

#include <type_traits>

#pragma GCC visibility push(default)
extern "C" {

// Whose values are wanted. Changes only between launches.
extern simt::Index3 simt_inspected_block, simt_inspected_thread;
extern bool simt_inspecting;

// An event begins with its kind and place, goes on with any number of texts, numbers and values, and ends.
void simt_event(char kind, const char* file, int line);
void simt_text(const char* text);
void simt_field(const char* name);                                      // what comes next belongs to it
void simt_leaf(const char* type, const void* bytes, size_t size);       // a number: its type and its bits
void simt_pointer(const char* type, size_t size, const void* address);  // and what it points to
void simt_open(char bracket);
void simt_close(char bracket);
void simt_end_event();

}  // extern "C"
#pragma GCC visibility pop

namespace simt {

inline bool is(const Index3& a, const Index3& b) { return a.x == b.x && a.y == b.y && a.z == b.z; }

inline bool inspected() {
  return simt_inspecting && simt_thread && is(simt_thread->index, simt_inspected_thread) &&
         is(simt_thread->block->index, simt_inspected_block);
}

// The type of a number as NumPy spells it, with bf for bfloat16; null of what is no number.
template <typename T>
constexpr const char* number_type() {
  if constexpr (std::is_same_v<T, bool>) return "b1";
  if constexpr (std::is_same_v<T, __nv_bfloat16>) return "bf";
  if constexpr (std::is_same_v<T, __half>) return "f2";
  if constexpr (std::is_floating_point_v<T>) return sizeof(T) == 4 ? "f4" : "f8";
  if constexpr (std::is_enum_v<T>) return number_type<std::underlying_type_t<T>>();
  if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
    constexpr const char* kSigned[] = {"i1", "i2", "i4", "i8"};
    constexpr const char* kUnsigned[] = {"u1", "u2", "u4", "u8"};
    constexpr int kPower = __builtin_ctz(sizeof(T));
    return std::is_signed_v<T> ? kSigned[kPower] : kUnsigned[kPower];
  }
  return nullptr;
}

// A pointer, `__restrict__` or not (std::is_pointer knows only the latter).
template <typename T>
void pointee(T*);
template <typename T>
concept IsPointer = !std::is_array_v<T> && requires(const T& value) {
  pointee(value);
};

struct AnyVisitor {
  template <typename T>
  void operator()(const char*, const T&);
};

template <typename T>
concept HasFields = requires(const T& value, AnyVisitor& visitor) {
  value.simt_fields(visitor);
};
template <typename T>
concept IsVector = requires(const T& value) {
  value.x;
  value.y;
};

// Larger ones, such as all of a block's shared memory, are told by their size alone.
constexpr size_t kLargestShown = 1024;

template <typename T>
constexpr bool is_shown() {
  using Plain = std::remove_cv_t<std::remove_all_extents_t<T>>;
  return number_type<Plain>() || IsPointer<Plain> || HasFields<Plain> || IsVector<Plain>;
}

template <typename T>
void describe(const T& value);

struct FieldWriter {
  template <typename T>
  void operator()(const char* name, const T& value) {
    if constexpr (is_shown<T>()) {
      simt_field(name);
      describe(value);
    }
  }
};

template <typename T>
void describe_pointer(T* pointer) {
  const char* type = number_type<std::remove_cv_t<T>>();
  size_t size = 1;
  if constexpr (!std::is_void_v<T> && !std::is_function_v<T>) size = sizeof(T);
  simt_pointer(type ? type : "", size, (const void*)pointer);
}

template <typename T>
void describe_vector(const T& value) {
  FieldWriter write;
  write("x", value.x);
  write("y", value.y);
  if constexpr (requires { value.z; }) write("z", value.z);
  if constexpr (requires { value.w; }) write("w", value.w);
}

template <typename T>
void describe(const T& value) {
  using Plain = std::remove_cv_t<T>;
  if constexpr (sizeof(T) > kLargestShown) {
    const size_t size = sizeof(T);
    simt_leaf("large", &size, sizeof(size));
  } else if constexpr (std::is_array_v<T>) {
    simt_open('[');
    for (const auto& element : value) describe(element);
    simt_close(']');
  } else if constexpr (IsPointer<Plain>) {
    describe_pointer(value);
  } else if constexpr (number_type<Plain>() != nullptr) {
    const Plain copy = value;
    simt_leaf(number_type<Plain>(), &copy, sizeof(copy));
  } else {
    simt_open('{');
    FieldWriter write;
    if constexpr (HasFields<Plain>) {
      value.simt_fields(write);
    } else {
      describe_vector(value);
    }
    simt_close('}');
  }
}

inline void event(char kind, const char* file, int line, const char* text) {
  simt_event(kind, file, line);
  simt_text(text);
}

// name = value. `subscripts` are what stands for each {} in the name.
template <typename T, typename... Subscript>
void tell(char kind, const char* file, int line, const char* name, const T& value,
          const Subscript&... subscripts) {
  if constexpr (is_shown<T>()) {
    event(kind, file, line, name);
    simt_open('[');
    (describe(subscripts), ...);
    simt_close(']');
    simt_pointer("", sizeof(T), (const void*)__builtin_addressof(value));
    describe(value);
    simt_end_event();
  }
}

// ---- What instrument.py adds ------------------------------------------------------------------------------

// A statement begins.
inline void at(const char* file, int line) {
  if (!inspected()) return;
  simt_event('a', file, line);
  simt_end_event();
}

// A variable, or what an assignment went to, after it.
template <typename T, typename... Subscript>
void value(const char* file, int line, const char* name, const T& value, const Subscript&... subscripts) {
  if (inspected()) tell('v', file, line, name, value, subscripts...);
}

template <typename T>
void parameter(const char* file, int line, const char* name, const T& value) {
  if (inspected()) tell('p', file, line, name, value);
}

// What a call may have changed through its first argument: a number or a pointer can hardly be meant.
template <typename T, typename... Subscript>
void output(const char* file, int line, const char* name, T&& value, const Subscript&... subscripts) {
  using Target = std::remove_reference_t<T>;
  constexpr bool kMayChange =
      std::is_lvalue_reference_v<T> && !std::is_const_v<std::remove_all_extents_t<Target>>;
  if constexpr (kMayChange && !IsPointer<Target> && !std::is_arithmetic_v<Target>) {
    if (inspected()) tell('v', file, line, name, value, subscripts...);
  }
}

// A __shared__ variable: where it lies.
template <typename T>
void shared(const char* file, int line, const char* name, T& variable) {
  if (!inspected()) return;
  event('m', file, line, name);
  if constexpr (IsPointer<T>) {
    simt_pointer("", 0, (const void*)variable);  // dynamic: the launch knows how large it is
  } else {
    simt_pointer("", sizeof(T), (const void*)__builtin_addressof(variable));
  }
  simt_end_event();
}

template <typename T>
bool branch(const char* file, int line, const char* condition, T&& value) {
  const bool taken = static_cast<bool>(value);
  if (inspected()) {
    event('b', file, line, condition);
    describe(taken);
    simt_end_event();
  }
  return taken;
}

template <typename T>
void result(const char* file, int line, const T& value) {
  if (inspected()) tell('t', file, line, "return", value);
}

// `return Return(...), expression;` shows the expression's value. Of an expression of type void it is the comma that
// is built in.
struct Return {
  const char* file;
  int line;

  Return(const char* in, int at) : file(in), line(at) {}
};

template <typename T>
T&& operator,(const Return& place, T&& value) {
  result(place.file, place.line, value);
  return static_cast<T&&>(value);
}

// From its beginning to its end: a function of the kernel; one turn of a loop.
class Span {
 public:
  Span(const Span&) = delete;
  ~Span() {
    if (!told_) return;
    simt_event('e', file_, 0);
    simt_end_event();
  }

 protected:
  Span(char kind, const char* file, int line, const char* name) : file_(file), told_(inspected()) {
    if (!told_) return;
    event(kind, file, line, name);
    simt_end_event();
  }

 private:
  const char* file_;
  const bool told_;
};

struct Call : Span {
  Call(const char* file, int line, const char* name) : Span('c', file, line, name) {}
};
struct Iteration : Span {
  Iteration(const char* file, int line) : Span('i', file, line, "") {}
};

// ---- Barriers and warp collectives: what went in and what came out. ---------------------------------------

inline void barrier(const char* file, int line, const char* name) {
  if (!inspected()) return;
  event('s', file, line, name);
  simt_end_event();
}

template <typename T, typename Exchange>
auto exchange(const char* file, int line, const char* name, const T& given, Exchange exchange) {
  const auto got = exchange(given);
  if (inspected()) {
    event('x', file, line, name);
    describe(given);
    describe(got);
    simt_end_event();
  }
  return got;
}

}  // namespace simt

#define SIMT_BARRIER(name, ...) (simt::barrier(__FILE__, __LINE__, #name), name(__VA_ARGS__))
#define SIMT_EXCHANGE(name, given, ...) \
  simt::exchange(__FILE__, __LINE__, #name, given, [&](const auto& simt_given) { return name(__VA_ARGS__); })

#define __syncthreads() SIMT_BARRIER(__syncthreads)
#define __syncwarp(...) SIMT_BARRIER(__syncwarp, __VA_ARGS__)
#define __syncthreads_count(p) SIMT_EXCHANGE(__syncthreads_count, p, simt_given)
#define __syncthreads_or(p) SIMT_EXCHANGE(__syncthreads_or, p, simt_given)
#define __syncthreads_and(p) SIMT_EXCHANGE(__syncthreads_and, p, simt_given)
#define __shfl_sync(mask, value, ...) SIMT_EXCHANGE(__shfl_sync, value, mask, simt_given, __VA_ARGS__)
#define __shfl_up_sync(mask, value, ...) SIMT_EXCHANGE(__shfl_up_sync, value, mask, simt_given, __VA_ARGS__)
#define __shfl_down_sync(mask, value, ...) \
  SIMT_EXCHANGE(__shfl_down_sync, value, mask, simt_given, __VA_ARGS__)
#define __shfl_xor_sync(mask, value, ...) SIMT_EXCHANGE(__shfl_xor_sync, value, mask, simt_given, __VA_ARGS__)
#define __ballot_sync(mask, p) SIMT_EXCHANGE(__ballot_sync, p, mask, simt_given)
#define __any_sync(mask, p) SIMT_EXCHANGE(__any_sync, p, mask, simt_given)
#define __all_sync(mask, p) SIMT_EXCHANGE(__all_sync, p, mask, simt_given)
#define __match_any_sync(mask, value) SIMT_EXCHANGE(__match_any_sync, value, mask, simt_given)
#define __reduce_add_sync(mask, value) SIMT_EXCHANGE(__reduce_add_sync, value, mask, simt_given)
#define __reduce_min_sync(mask, value) SIMT_EXCHANGE(__reduce_min_sync, value, mask, simt_given)
#define __reduce_max_sync(mask, value) SIMT_EXCHANGE(__reduce_max_sync, value, mask, simt_given)
#define __reduce_and_sync(mask, value) SIMT_EXCHANGE(__reduce_and_sync, value, mask, simt_given)
#define __reduce_or_sync(mask, value) SIMT_EXCHANGE(__reduce_or_sync, value, mask, simt_given)
#define __reduce_xor_sync(mask, value) SIMT_EXCHANGE(__reduce_xor_sync, value, mask, simt_given)

#endif
