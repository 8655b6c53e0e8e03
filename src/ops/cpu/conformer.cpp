#include "mtp/ops/conformer.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "column_sums.h"
#include "element_type.h"
#include "vector_math.h"

namespace mtp::ops::cpu {

namespace {

constexpr std::int64_t piece = 16384;  // elements of one task

inline float sigmoid(float x) { return 1.0f / (1.0f + cpu::exp_f32(-x)); }

/// body(i) for every element, vectorised.
template <typename Body>
void for_each_element(const Device& device, std::int64_t n, const Body& body) {
  cpu::parallel_pieces(device, n, piece, [&](std::int64_t begin, std::int64_t end) {
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) body(i);
  });
}

/// body(clip, row) for every row of every clip, which are counted in all of them.
template <typename Body>
void for_each_row(const Device& device, const Sequences& clips, const Body& body) {
  for (std::int64_t b = 0; b < clips.count(); ++b)
    cpu::parallel_for(device, clips.length(b), [&](std::int64_t t) { body(b, clips.begin(b) + t); });
}

float dot(const float* a, const float* b, std::int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

void add_scaled_to(float factor, const float* x, std::int64_t n, float* y) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) y[i] += factor * x[i];
}

/// Of the first `count` of a row's scores.
void softmax(const float* scores, std::int64_t count, float* weights) {
  const float most = *std::max_element(scores, scores + count);
  float sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += weights[i] = cpu::exp_f32(scores[i] - most);
  for (std::int64_t i = 0; i < count; ++i) weights[i] /= sum;
}

}  // namespace

void activation_forward(Device& device, Activation activation, const Tensor& x, const Tensor& y) {
  cpu::with_type_of(x, [&]<typename T>(T) {
    const T* in = cpu::elements_of<T>(x);
    T* out = cpu::elements_of<T>(y);
    if (activation == Activation::relu)
      for_each_element(device, x.elements(), [=](std::int64_t i) { out[i] = in[i] > 0.0f ? float(in[i]) : 0.0f; });
    else
      for_each_element(device, x.elements(), [=](std::int64_t i) { out[i] = in[i] * sigmoid(in[i]); });
  });
}

void activation_backward(Device& device, Activation activation, const Tensor& dy, const Tensor& x, const Tensor& dx) {
  cpu::with_type_of(x, [&]<typename T>(T) {
    const T *in = cpu::elements_of<T>(x), *d = cpu::elements_of<T>(dy);
    T* out = cpu::elements_of<T>(dx);
    if (activation == Activation::relu)
      for_each_element(device, x.elements(), [=](std::int64_t i) { out[i] = in[i] > 0.0f ? float(d[i]) : 0.0f; });
    else
      for_each_element(device, x.elements(), [=](std::int64_t i) {
        const float s = sigmoid(in[i]);
        out[i] = d[i] * (s + in[i] * s * (1.0f - s));
      });
  });
}

void gated_sigmoid_forward(Device& device, const Tensor& x, const Tensor& y) {
  const std::int64_t width = y.size(1);
  cpu::with_type_of(x, [&]<typename T>(T) {
    cpu::parallel_for(device, y.size(0), [&](std::int64_t row) {
      const T *a = cpu::elements_of<T>(x) + row * 2 * width, *b = a + width;
      T* out = cpu::elements_of<T>(y) + row * width;
#pragma omp simd
      for (std::int64_t i = 0; i < width; ++i) out[i] = a[i] * sigmoid(b[i]);
    });
  });
}

void gated_sigmoid_backward(Device& device, const Tensor& dy, const Tensor& x, const Tensor& dx) {
  const std::int64_t width = dy.size(1);
  cpu::with_type_of(x, [&]<typename T>(T) {
    cpu::parallel_for(device, dy.size(0), [&](std::int64_t row) {
      const T *a = cpu::elements_of<T>(x) + row * 2 * width, *b = a + width, *d = cpu::elements_of<T>(dy) + row * width;
      T *da = cpu::elements_of<T>(dx) + row * 2 * width, *db = da + width;
#pragma omp simd
      for (std::int64_t i = 0; i < width; ++i) {
        const float s = sigmoid(b[i]);
        da[i] = d[i] * s;
        db[i] = d[i] * a[i] * s * (1.0f - s);
      }
    });
  });
}

void neighbours_forward(Device& device, const SoundGrid& in, const SoundGrid& out, const Tensor& x, const Tensor& y) {
  const std::int64_t channels = x.size(1);
  cpu::with_type_of(x, [&]<typename T>(T) {
    for_each_row(device, out.clips, [&](std::int64_t b, std::int64_t row) {
      const std::int64_t first = in.clips.begin(b), length = in.clips.length(b), t = row - out.clips.begin(b);
      for (std::int64_t f = 0; f < out.frequencies; ++f) {
        T* to = cpu::elements_of<T>(y) + (row * out.frequencies + f) * 9 * channels;
        for (std::int64_t n = 0; n < 9; ++n) {
          const std::int64_t time = 2 * t - 1 + n / 3, frequency = 2 * f - 1 + n % 3;
          const bool is_within = time >= 0 && time < length && frequency >= 0 && frequency < in.frequencies;
          const T* from = cpu::elements_of<T>(x) + ((first + time) * in.frequencies + frequency) * channels;
          for (std::int64_t c = 0; c < channels; ++c) to[c * 9 + n] = is_within ? from[c] : T(0.0f);
        }
      }
    });
  });
}

void neighbours_backward(Device& device, const SoundGrid& in, const SoundGrid& out, const Tensor& dy,
                         const Tensor& dx) {
  const std::int64_t channels = dx.size(1);
  cpu::with_type_of(dx, [&]<typename T>(T) {
    for_each_row(device, in.clips, [&](std::int64_t b, std::int64_t row) {
      const std::int64_t first = out.clips.begin(b), length = out.clips.length(b), t = row - in.clips.begin(b);
      for (std::int64_t f = 0; f < in.frequencies; ++f)
        for (std::int64_t c = 0; c < channels; ++c) {
          float sum = 0;
          for (std::int64_t n = 0; n < 9; ++n) {
            // Twice the time and the frequency of the row whose neighbour n this is.
            const std::int64_t time = t + 1 - n / 3, frequency = f + 1 - n % 3;
            if (time < 0 || frequency < 0 || time % 2 != 0 || frequency % 2 != 0) continue;
            if (time / 2 >= length || frequency / 2 >= out.frequencies) continue;
            const std::int64_t from = (first + time / 2) * out.frequencies + frequency / 2;
            sum += cpu::elements_of<T>(dy)[(from * channels + c) * 9 + n];
          }
          cpu::elements_of<T>(dx)[(row * in.frequencies + f) * channels + c] = sum;
        }
    });
  });
}

void causal_convolution_forward(Device& device, const Sequences& clips, const Tensor& x, const Tensor& w,
                                const Tensor& y) {
  const std::int64_t width = x.size(1), taps = w.elements() / width;
  cpu::with_type_of(x, [&]<typename T>(T) {
    for_each_row(device, clips, [&](std::int64_t b, std::int64_t row) {
      const std::int64_t missing = std::max<std::int64_t>(0, taps - 1 - (row - clips.begin(b)));
      for (std::int64_t i = 0; i < width; ++i) {
        float sum = 0;
        for (std::int64_t m = missing; m < taps; ++m)
          sum += cpu::elements_of<T>(w)[i * taps + m] * cpu::elements_of<T>(x)[(row - taps + 1 + m) * width + i];
        cpu::elements_of<T>(y)[row * width + i] = sum;
      }
    });
  });
}

void causal_convolution_backward_input(Device& device, const Sequences& clips, const Tensor& dy, const Tensor& w,
                                       const Tensor& dx) {
  const std::int64_t width = dx.size(1), taps = w.elements() / width;
  cpu::with_type_of(dx, [&]<typename T>(T) {
    for_each_row(device, clips, [&](std::int64_t b, std::int64_t row) {
      const std::int64_t later = std::min(taps, clips.end(b) - row);
      for (std::int64_t i = 0; i < width; ++i) {
        float sum = 0;
        for (std::int64_t n = 0; n < later; ++n)
          sum += cpu::elements_of<T>(w)[i * taps + taps - 1 - n] * cpu::elements_of<T>(dy)[(row + n) * width + i];
        cpu::elements_of<T>(dx)[row * width + i] = sum;
      }
    });
  });
}

void causal_convolution_backward_weight(Device& device, const Sequences& clips, const Tensor& dy, const Tensor& x,
                                        const Tensor& dw) {
  const std::int64_t width = x.size(1), taps = dw.elements() / width;
  cpu::with_type_of(x, [&]<typename T>(T) {
    for (std::int64_t b = 0; b < clips.count(); ++b) {
      const T *in = cpu::elements_of<T>(x) + clips.begin(b) * width,
              *d = cpu::elements_of<T>(dy) + clips.begin(b) * width;
      cpu::add_column_sums(device, clips.length(b), width * taps, dw, [&](std::int64_t t, float* sums) {
        for (std::int64_t m = std::max<std::int64_t>(0, taps - 1 - t); m < taps; ++m)
          for (std::int64_t i = 0; i < width; ++i)
            sums[i * taps + m] += d[t * width + i] * in[(t - taps + 1 + m) * width + i];
      });
    }
  });
}

namespace {

/// factor · softplus(s), or its derivative.   [d]
std::vector<float> factors_of(Device& device, float factor, const Tensor& s, bool is_derivative) {
  const Tensor values = cpu::as_fp32(device, s);
  std::vector<float> factors(values.f32(), values.f32() + values.elements());
  for (float& x : factors) {
    // log(1 + exp(x)) without overflow
    const float softplus = std::max(x, 0.0f) + std::log1p(std::exp(-std::abs(x)));
    x = factor * (is_derivative ? 1.0f / (1.0f + std::exp(-x)) : softplus);
  }
  return factors;
}

}  // namespace

void scale_by_softplus_forward(Device& device, float factor, const Tensor& x, const Tensor& s, const Tensor& y) {
  const std::int64_t width = x.size(-1);
  const std::vector<float> factors = factors_of(device, factor, s, false);
  cpu::parallel_for(device, x.elements() / width, [&](std::int64_t row) {
    for (std::int64_t i = 0; i < width; ++i) y.f32()[row * width + i] = x.f32()[row * width + i] * factors[i];
  });
}

void scale_by_softplus_backward(Device& device, float factor, const Tensor& dy, const Tensor& x, const Tensor& s,
                                const Tensor& dx, const Tensor& ds) {
  const std::int64_t width = x.size(-1);
  const std::vector<float> factors = factors_of(device, factor, s, false), slopes = factors_of(device, factor, s, true);
  cpu::add_column_sums(device, x.elements() / width, width, ds, [&](std::int64_t row, float* sums) {
    const float *d = dy.f32() + row * width, *in = x.f32() + row * width;
    if (sums != nullptr)
      for (std::int64_t i = 0; i < width; ++i) sums[i] += d[i] * in[i] * slopes[i];
    for (std::int64_t i = 0; i < width; ++i) dx.f32()[row * width + i] = d[i] * factors[i];
  });
}

void local_attention_forward(Device& device, const LocalAttention& attention, const Sequences& clips,
                             const LocalAttentionInputs& in, const Tensor& out, const Tensor& scores) {
  const std::int64_t heads = in.q.size(1), d = in.q.size(2);
  const auto [span, cap] = attention;
  for_each_row(device, clips, [&, span = span, cap = cap](std::int64_t b, std::int64_t t) {
    const std::int64_t count = std::min(span, t - clips.begin(b) + 1);
    std::vector<float> weights(count);
    for (std::int64_t h = 0; h < heads; ++h) {
      const float* q = in.q.f32() + (t * heads + h) * d;
      float *row = scores.f32() + (t * heads + h) * span, *sum = out.f32() + (t * heads + h) * d;
      for (std::int64_t n = 0; n < count; ++n) {
        const float content = dot(q, in.k.f32() + ((t - n) * heads + h) * d, d);
        row[n] = cap * cpu::tanh_f32((content + dot(q, in.r.f32() + (n * heads + h) * d, d)) / cap);
      }
      softmax(row, count, weights.data());
      std::fill_n(sum, d, 0.0f);
      for (std::int64_t n = 0; n < count; ++n)
        add_scaled_to(weights[n], in.v.f32() + ((t - n) * heads + h) * d, d, sum);
    }
  });
}

void local_attention_backward(Device& device, const LocalAttention& attention, const Sequences& clips,
                              const Tensor& dout, const LocalAttentionInputs& in, const Tensor& scores,
                              const LocalAttentionInputs& gradients) {
  const std::int64_t heads = in.q.size(1), d = in.q.size(2);
  const auto [span, cap] = attention;
  // Of every score: its weight, and the gradient of what it was before the cap.
  const Tensor weights = device.zeros(scores.shape()), slopes = device.zeros(scores.shape());
  for_each_row(device, clips, [&, span = span, cap = cap](std::int64_t b, std::int64_t t) {
    const std::int64_t count = std::min(span, t - clips.begin(b) + 1);
    for (std::int64_t h = 0; h < heads; ++h) {
      const std::int64_t begin = (t * heads + h) * span;
      const float *a = scores.f32() + begin, *dy = dout.f32() + (t * heads + h) * d;
      float *p = weights.f32() + begin, *dz = slopes.f32() + begin, *dq = gradients.q.f32() + (t * heads + h) * d;
      softmax(a, count, p);
      float mean = 0;
      for (std::int64_t n = 0; n < count; ++n) {
        dz[n] = dot(dy, in.v.f32() + ((t - n) * heads + h) * d, d);
        mean += p[n] * dz[n];
      }
      std::fill_n(dq, d, 0.0f);
      for (std::int64_t n = 0; n < count; ++n) {
        dz[n] = p[n] * (dz[n] - mean) * (1.0f - a[n] / cap * (a[n] / cap));
        add_scaled_to(dz[n], in.k.f32() + ((t - n) * heads + h) * d, d, dq);
        add_scaled_to(dz[n], in.r.f32() + (n * heads + h) * d, d, dq);
      }
    }
  });
  for_each_row(device, clips, [&, span = span](std::int64_t b, std::int64_t j) {
    for (std::int64_t h = 0; h < heads; ++h) {
      float *dk = gradients.k.f32() + (j * heads + h) * d, *dv = gradients.v.f32() + (j * heads + h) * d;
      std::fill_n(dk, d, 0.0f);
      std::fill_n(dv, d, 0.0f);
      for (std::int64_t n = 0; n < std::min(span, clips.end(b) - j); ++n) {
        const std::int64_t seen_by = (j + n) * heads + h;
        add_scaled_to(slopes.f32()[seen_by * span + n], in.q.f32() + seen_by * d, d, dk);
        add_scaled_to(weights.f32()[seen_by * span + n], dout.f32() + seen_by * d, d, dv);
      }
    }
  });
  cpu::parallel_for(device, span * heads, [&, span = span](std::int64_t i) {
    float* dr = gradients.r.f32() + i * d;
    std::fill_n(dr, d, 0.0f);
    for (std::int64_t row = i % heads; row < clips.rows() * heads; row += heads)
      add_scaled_to(slopes.f32()[row * span + i / heads], in.q.f32() + row * d, d, dr);
  });
}

}  // namespace mtp::ops::cpu
