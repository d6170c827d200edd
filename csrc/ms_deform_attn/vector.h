// Vectors of the instruction set that the including file is compiled for, and the layouts of a row
// of D channels: as float, double, or bfloat16 pairs. Internal linkage throughout; see
// ms_deform_attn.h.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace vitadapter_d2 {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

// The integer as wide as a compute type: comparisons of its vectors give vectors of these.
template <class A>
struct IndexOf {
  using Type = int32_t;
};
template <>
struct IndexOf<double> {
  using Type = int64_t;
};
template <class A>
using Index = typename IndexOf<A>::Type;

template <class A>
struct VectorOf {
  static constexpr int kLanes = kVectorBytes / sizeof(A);
  typedef A Type __attribute__((vector_size(kVectorBytes)));
  typedef A Unaligned __attribute__((vector_size(kVectorBytes), aligned(sizeof(A)), may_alias));
};
typedef uint32_t Words __attribute__((vector_size(kVectorBytes)));
typedef uint32_t UnalignedWords __attribute__((vector_size(kVectorBytes), aligned(2), may_alias));

template <class A>
using Vector = typename VectorOf<A>::Type;

template <class A>
inline Vector<A> load(const A* p) {
  return *reinterpret_cast<const typename VectorOf<A>::Unaligned*>(p);
}

template <class A>
inline void store(A* p, Vector<A> v) {
  *reinterpret_cast<typename VectorOf<A>::Unaligned*>(p) = v;
}

// Rows of a head are far apart in memory, where processors do not see a pattern to fetch ahead.
constexpr int64_t kAhead = 16;
template <int kWrite, class T>
inline void prefetch(const T* row, int64_t count) {
  const char* const bytes = reinterpret_cast<const char*>(row);
  for (int64_t i = 0; i < count * int64_t(sizeof(T)); i += 64)
    __builtin_prefetch(bytes + i, kWrite);
}

// Four numbers, whatever the instruction set.
template <class A>
struct QuadOf {
  typedef A Type __attribute__((vector_size(4 * sizeof(A))));
  typedef A Unaligned __attribute__((vector_size(4 * sizeof(A)), aligned(sizeof(A)), may_alias));
};
template <class A>
using Quad = typename QuadOf<A>::Type;

template <class A>
inline Quad<A> load_quad(const A* p) {
  return *reinterpret_cast<const typename QuadOf<A>::Unaligned*>(p);
}

template <class To, class From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

inline float to_compute(float x) { return x; }
inline double to_compute(double x) { return x; }
inline float to_compute(BFloat16 x) { return bit_cast<float>(uint32_t(x.bits) << 16); }
inline float to_compute(Half x) {
  // A subnormal half becomes a subnormal float of the same digits; the product puts the exponent
  // right.
  const uint32_t digits = uint32_t(x.bits & 0x7fff) << 13;
  const float magnitude = bit_cast<float>(digits) * 0x1p112f;
  const uint32_t special = (x.bits & 0x7c00) == 0x7c00 ? 0x7f800000u : 0u;
  return bit_cast<float>(bit_cast<uint32_t>(magnitude) | special | uint32_t(x.bits & 0x8000) << 16);
}

inline void from_compute(float x, float& to) { to = x; }
inline void from_compute(double x, double& to) { to = x; }
inline void from_compute(float x, BFloat16& to) {
  const uint32_t u = bit_cast<uint32_t>(x);
  const uint32_t rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  to.bits = x == x ? uint16_t(rounded) : uint16_t(0x7fc0);
}
inline void from_compute(float x, Half& to) {
  const uint32_t u = bit_cast<uint32_t>(x);
  const uint32_t sign = (u >> 16) & 0x8000, magnitude = u & 0x7fffffff;
  const uint32_t exponent = magnitude >> 23;
  uint32_t bits;
  if (magnitude > 0x7f800000) {
    bits = 0x7e00;
  } else if (magnitude >= 0x477ff000) {  // rounds to 65536 or more
    bits = 0x7c00;
  } else if (exponent >= 113) {
    bits = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  } else {  // subnormal: adding 0.5 leaves the rounded digits at the bottom
    bits = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  }
  to.bits = uint16_t(sign | bits);
}

// exp(x) for x <= 0, to 2 ulp, in a form that compilers vectorise. NaN stays NaN.
inline float exp_nonpositive(float x) {
  const float clamped = x < -87.0f ? -87.0f : x;
  const float shifted = clamped * 1.44269504f + 12582912.0f;  // the integer is in the low digits
  const float n = shifted - 12582912.0f;
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const float scale = bit_cast<float>((bit_cast<uint32_t>(shifted) + 127u) << 23);
  return x < -87.0f ? 0.0f : p * scale;
}
inline double exp_nonpositive(double x) { return __builtin_exp(x); }

// Adds the sums of four vectors to four numbers.
template <class A>
inline void add_sums(Vector<A> a, Vector<A> b, Vector<A> c, Vector<A> d, A* to) {
  const Vector<A> all[4] = {a, b, c, d};
  for (int i = 0; i < 4; ++i) {
    A sum = all[i][0];
    for (int lane = 1; lane < VectorOf<A>::kLanes; ++lane) sum += all[i][lane];
    to[i] += sum;
  }
}
#if defined(__SSE2__)
template <>
inline void add_sums<float>(Vector<float> a, Vector<float> b, Vector<float> c, Vector<float> d,
                            float* to) {
  // Transpose and add inside each 128 bits, then fold these.
#if defined(__AVX512F__)
  const __m512 ab = _mm512_unpacklo_ps(a, b) + _mm512_unpackhi_ps(a, b);
  const __m512 cd = _mm512_unpacklo_ps(c, d) + _mm512_unpackhi_ps(c, d);
  const __m512 low = _mm512_castpd_ps(_mm512_unpacklo_pd(__m512d(ab), __m512d(cd)));
  const __m512 high = _mm512_castpd_ps(_mm512_unpackhi_pd(__m512d(ab), __m512d(cd)));
  const __m512 abcd = low + high;
  const __m256 top = _mm256_castpd_ps(_mm512_extractf64x4_pd(__m512d(abcd), 1));
  const __m256 half = _mm512_castps512_ps256(abcd) + top;
  const __m128 sum = _mm256_castps256_ps128(half) + _mm256_extractf128_ps(half, 1);
#elif defined(__AVX2__)
  const __m256 ab = _mm256_unpacklo_ps(a, b) + _mm256_unpackhi_ps(a, b);
  const __m256 cd = _mm256_unpacklo_ps(c, d) + _mm256_unpackhi_ps(c, d);
  const __m256 low = _mm256_castpd_ps(_mm256_unpacklo_pd(__m256d(ab), __m256d(cd)));
  const __m256 high = _mm256_castpd_ps(_mm256_unpackhi_pd(__m256d(ab), __m256d(cd)));
  const __m256 abcd = low + high;
  const __m128 sum = _mm256_castps256_ps128(abcd) + _mm256_extractf128_ps(abcd, 1);
#else
  const __m128 ab = _mm_unpacklo_ps(a, b) + _mm_unpackhi_ps(a, b);
  const __m128 cd = _mm_unpacklo_ps(c, d) + _mm_unpackhi_ps(c, d);
  const __m128 sum = _mm_movelh_ps(ab, cd) + _mm_movehl_ps(cd, ab);
#endif
  _mm_storeu_ps(to, _mm_loadu_ps(to) + sum);
}
#endif

// How a packed row keeps its channels. `Compute` is also the type of accumulators and of the
// gradient slice, whose rows have as many elements in the same lane order. encode and decode
// convert between that order and D channels of T.
template <class A>
struct PlainRow {
  using Compute = A;
  using Store = A;
  static constexpr int kUnit = VectorOf<A>::kLanes;  // a row is a multiple of it

  template <int NV>
  static inline void load_row(const A* p, Vector<A> (&v)[NV]) {
    for (int i = 0; i < NV; ++i) v[i] = load(p + i * kUnit);
  }
  template <class T>
  static inline void encode(const T* from, int64_t D, int64_t stride, A* to) {
    int64_t d = 0;
    if constexpr (__is_same(T, A)) {
      for (; d + kUnit <= D; d += kUnit) store(to + d, load(from + d));
    }
    for (; d < D; ++d) to[d] = to_compute(from[d]);
    for (; d < stride; ++d) to[d] = 0;
  }
  template <class T>
  static inline void decode(const A* from, int64_t D, T* to) {
    int64_t d = 0;
    if constexpr (__is_same(T, A)) {
      for (; d + kUnit <= D; d += kUnit) store(to + d, load(from + d));
    }
    for (; d < D; ++d) from_compute(from[d], to[d]);
  }
  template <class T>
  static inline void pack(const T* from, int64_t D, int64_t stride, A* to) {
    encode(from, D, stride, to);
  }
};

// bfloat16 kept as it is: half the bytes to gather. A word holds channels 2i (low half) and 2i + 1,
// so a vector of words yields the even and the odd channels by one shift and one mask.
struct PairRow {
  using Compute = float;
  using Store = BFloat16;
  static constexpr int kUnit = 2 * VectorOf<float>::kLanes;

  static inline Words words(const BFloat16* p) {
    return *reinterpret_cast<const UnalignedWords*>(p);
  }
  static inline Vector<float> even(Words w) { return (Vector<float>)(w << 16); }
  static inline Vector<float> odd(Words w) { return (Vector<float>)(w & 0xffff0000u); }

  template <int NV>
  static inline void load_row(const BFloat16* p, Vector<float> (&v)[NV]) {
    for (int i = 0; i < NV / 2; ++i) {
      const Words w = words(p + i * kUnit);
      v[2 * i] = even(w);
      v[2 * i + 1] = odd(w);
    }
  }
  static inline void encode(const BFloat16* from, int64_t D, int64_t, float* to) {
    for (int64_t d = 0; d < D; d += kUnit) {
      const Words w = words(from + d);
      store(to + d, even(w));
      store(to + d + kUnit / 2, odd(w));
    }
  }
  static inline Words round(Vector<float> v) {
    const Words u = (Words)v;
    const Words rounded = u + 0x7fffu + ((u >> 16) & 1u);
    const Words number = (Words)(v == v);  // all ones unless NaN
    return ((rounded & number) | (~number & 0x7fc00000u)) & 0xffff0000u;
  }
  static inline void decode(const float* from, int64_t D, BFloat16* to) {
    for (int64_t d = 0; d < D; d += kUnit) {
      const Words low = round(load(from + d)) >> 16, high = round(load(from + d + kUnit / 2));
      *reinterpret_cast<UnalignedWords*>(to + d) = low | high;
    }
  }
  static inline void pack(const BFloat16* from, int64_t D, int64_t, BFloat16* to) {
    for (int64_t d = 0; d < D; d += kUnit) {
      *reinterpret_cast<UnalignedWords*>(to + d) = words(from + d);
    }
  }
};

}  // namespace
}  // namespace vitadapter_d2
