// One value at a time, in plain C++: for processors that have no source of their own here. The compiler makes of it what it can.
#pragma once

#include <stdint.h>
#include <string.h>

#include "kernels.h"

namespace {

constexpr int WIDTH = 1;

struct Floats {
  float v;
  Floats() = default;
  Floats(float x) : v(x) {}
};

inline Floats load(const float* from) { return *from; }
inline void store(float* to, Floats x) { *to = x.v; }
inline void store_past_caches(float* to, Floats x) { *to = x.v; }
inline Floats operator+(Floats a, Floats b) { return a.v + b.v; }
inline Floats operator-(Floats a, Floats b) { return a.v - b.v; }
inline Floats operator*(Floats a, Floats b) { return a.v * b.v; }
inline Floats operator/(Floats a, Floats b) { return a.v / b.v; }
inline Floats multiply_add(Floats a, Floats b, Floats c) { return a.v * b.v + c.v; }
// Where x is NaN it stays so.
inline Floats clamp(Floats x, float low, float high) { return x.v < low ? low : x.v > high ? high : x.v; }
inline Floats round(Floats x) {  // of at most 2^22
  const float shift = 12582912.0f;  // 1.5 * 2^23: what is added to it is rounded to an integer
  return (x.v + shift) - shift;
}
// An integer and at most one half, or something as far outside of the range of floats as x is.
inline void split(Floats x, Floats& whole, Floats& rest) {
  const Floats near = clamp(x, -160.0f, 160.0f);
  whole = round(near);
  rest = near - whole;
}
inline float sum(Floats x) { return x.v; }
inline Floats reciprocal(Floats x) { return 1.0f / x.v; }

// x * 2^n, for integers n in [-160, 160]: two steps, so that what overflows or fades out does so as it should.
inline Floats scale(Floats x, Floats n) {
  const int32_t whole = static_cast<int32_t>(n.v == n.v ? n.v : 0.0f), half = whole >> 1;
  const int32_t first = (half + 127) << 23, second = (whole - half + 127) << 23;
  float a, b;
  memcpy(&a, &first, sizeof(a));
  memcpy(&b, &second, sizeof(b));
  return x.v * a * b;
}

// --- bfloat16 ------------------------------------------------------------------------------------------------------------------------

inline float from_bfloat16(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

inline uint16_t to_bfloat16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return x == x ? static_cast<uint16_t>(rounded) : static_cast<uint16_t>((bits >> 16) | 0x40);
}

// So many values (at least one; of more than WIDTH the first), and `fill` in the lanes behind them.
inline Floats load_some(const float* from, int64_t, float) { return *from; }
inline Floats load_some(const uint16_t* from, int64_t, float) { return from_bfloat16(*from); }
inline void store_some(float* to, Floats x, int64_t) { *to = x.v; }
inline void store_some(uint16_t* to, Floats x, int64_t) { *to = to_bfloat16(x.v); }

// Two vectors' worth, in an order that store_pair undoes.
inline void load_pair(const uint16_t* from, Floats& a, Floats& b) {
  a = from_bfloat16(from[0]);
  b = from_bfloat16(from[1]);
}
inline void store_pair(uint16_t* to, Floats a, Floats b) {
  to[0] = to_bfloat16(a.v);
  to[1] = to_bfloat16(b.v);
}
inline void store_pair_past_caches(uint16_t* to, Floats a, Floats b) { store_pair(to, a, b); }
inline void fence() {}

inline void copy_line_past_caches(void* to, const void* from) { memcpy(to, from, 64); }

// --- integers that order as the floats do --------------------------------------------------------------------------------------------

struct Keys {
  int32_t v;
};

inline Keys load_keys(const int32_t* from) { return {*from}; }
inline void store_keys(int32_t* to, Keys x) { *to = x.v; }
inline Keys highest(Keys a, Keys b) { return {a.v > b.v ? a.v : b.v}; }
inline int32_t highest(Keys a) { return a.v; }
// One bit for each lane that holds x.
inline uint64_t equal(Keys a, int32_t x) { return a.v == x; }
inline Keys lowered(Keys a, uint64_t lanes) { return {lanes & 1 ? INT32_MIN : a.v}; }
inline Keys keys_of(Floats x) {
  const float unsigned_zero = x.v + 0.0f;
  int32_t bits;
  memcpy(&bits, &unsigned_zero, sizeof(bits));
  return {x.v != x.v ? INT32_MAX : bits ^ ((bits >> 31) & INT32_MAX)};
}

}  // namespace
