#include "mtp/ops/conformer.h"

#include "rows.cuh"

namespace mtp::ops::cuda {

namespace {

constexpr int threads = 256;

__device__ std::int64_t index_of_thread() { return static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x; }

/// A thread for each of `count` indices.
template <typename... Parameters, typename... Arguments>
void for_each_index(Device& device, std::int64_t count, void (*kernel)(std::int64_t, Parameters...),
                    Arguments... arguments) {
  launch(device, kernel, blocks(ceil_div(count, threads)), threads, count, arguments...);
}

__device__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

struct Relu {
  __device__ static float value(float x) { return x > 0 ? x : 0; }
  __device__ static float slope(float x) { return x > 0 ? 1 : 0; }
};
struct Silu {
  __device__ static float value(float x) { return x * sigmoid(x); }
  __device__ static float slope(float x) {
    const float s = sigmoid(x);
    return s + x * s * (1.0f - s);
  }
};

template <typename Function>
__global__ void activation_kernel(std::int64_t count, Elements x, Elements y) {
  const std::int64_t i = index_of_thread();
  if (i < count) y.set(i, Function::value(x[i]));
}

template <typename Function>
__global__ void activation_backward_kernel(std::int64_t count, Elements dy, Elements x, Elements dx) {
  const std::int64_t i = index_of_thread();
  if (i < count) dx.set(i, dy[i] * Function::slope(x[i]));
}

__global__ void gated_sigmoid_kernel(std::int64_t count, std::int64_t width, Elements x, Elements y) {
  const std::int64_t i = index_of_thread();
  if (i >= count) return;
  const std::int64_t a = i / width * 2 * width + i % width;
  y.set(i, x[a] * sigmoid(x[a + width]));
}

__global__ void gated_sigmoid_backward_kernel(std::int64_t count, std::int64_t width, Elements dy, Elements x,
                                              Elements dx) {
  const std::int64_t i = index_of_thread();
  if (i >= count) return;
  const std::int64_t a = i / width * 2 * width + i % width;
  const float s = sigmoid(x[a + width]), d = dy[i];
  dx.set(a, d * s);
  dx.set(a + width, d * x[a] * s * (1.0f - s));
}

/// A clip's time steps and frequencies.
struct Grid {
  std::int64_t first, length, frequencies;
};

/// Of one clip; an index is an element of its rows of y.
__global__ void neighbours_kernel(std::int64_t count, Grid in, Grid out, std::int64_t channels, Elements x,
                                  Elements y) {
  const std::int64_t i = index_of_thread();
  if (i >= count) return;
  const std::int64_t row = i / (9 * channels), c = i / 9 % channels, n = i % 9;
  const std::int64_t time = 2 * (row / out.frequencies) - 1 + n / 3,
                     frequency = 2 * (row % out.frequencies) - 1 + n % 3;
  const bool is_within = time >= 0 && time < in.length && frequency >= 0 && frequency < in.frequencies;
  const std::int64_t from = (in.first + time) * in.frequencies + frequency;
  y.set(out.first * out.frequencies * 9 * channels + i, is_within ? x[from * channels + c] : 0.0f);
}

/// Of one clip; an index is an element of its rows of dx.
__global__ void neighbours_backward_kernel(std::int64_t count, Grid in, Grid out, std::int64_t channels, Elements dy,
                                           Elements dx) {
  const std::int64_t i = index_of_thread();
  if (i >= count) return;
  const std::int64_t row = i / channels, c = i % channels;
  float sum = 0;
  for (std::int64_t n = 0; n < 9; ++n) {
    // Twice the time and the frequency of the row whose neighbour n this is.
    const std::int64_t time = row / in.frequencies + 1 - n / 3, frequency = row % in.frequencies + 1 - n % 3;
    if (time < 0 || frequency < 0 || time % 2 != 0 || frequency % 2 != 0) continue;
    if (time / 2 >= out.length || frequency / 2 >= out.frequencies) continue;
    sum += dy[(((out.first + time / 2) * out.frequencies + frequency / 2) * channels + c) * 9 + n];
  }
  dx.set(in.first * in.frequencies * channels + i, sum);
}

/// body(in, out) for every clip.
template <typename Body>
void for_each_grid(const SoundGrid& in, const SoundGrid& out, const Body& body) {
  for (std::int64_t b = 0; b < in.clips.count(); ++b)
    body(Grid{in.clips.begin(b), in.clips.length(b), in.frequencies},
         Grid{out.clips.begin(b), out.clips.length(b), out.frequencies});
}

/// Of one clip, whose first element is at `begin`; an index is an element.
__global__ void convolution_kernel(std::int64_t count, std::int64_t begin, std::int64_t width, std::int64_t taps,
                                   Elements x, Elements w, Elements y) {
  const std::int64_t i = index_of_thread();
  if (i >= count) return;
  const std::int64_t t = i / width, column = i % width;
  float sum = 0;
  for (std::int64_t m = t < taps - 1 ? taps - 1 - t : 0; m < taps; ++m)
    sum += w[column * taps + m] * x[begin + i - (taps - 1 - m) * width];
  y.set(begin + i, sum);
}

__global__ void convolution_backward_kernel(std::int64_t count, std::int64_t begin, std::int64_t width,
                                            std::int64_t taps, Elements dy, Elements w, Elements dx) {
  const std::int64_t i = index_of_thread();
  if (i >= count) return;
  const std::int64_t column = i % width;
  float sum = 0;
  for (std::int64_t n = 0; n < taps && i + n * width < count; ++n)
    sum += w[column * taps + taps - 1 - n] * dy[begin + i + n * width];
  dx.set(begin + i, sum);
}

struct TapTerm {
  std::int64_t begin, width, taps;
  Elements dy, x;
  __device__ float operator()(std::int64_t t, std::int64_t i) const {
    const std::int64_t column = i / taps % width, back = taps - 1 - i % taps;
    return back > t ? 0.0f : dy[begin + t * width + column] * x[begin + (t - back) * width + column];
  }
};

/// log(1 + exp(x)) without overflow
__device__ float softplus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }

/// y = factor · softplus(s) · x, which is also how the gradient goes back.
__global__ void softplus_kernel(std::int64_t count, std::int64_t width, float factor, const float* x, Elements s,
                                float* y) {
  const std::int64_t i = index_of_thread();
  if (i < count) y[i] = x[i] * (factor * softplus(s[i % width]));
}

struct SoftplusTerm {
  std::int64_t width;
  float factor;
  const float *dy, *x;
  Elements s;
  __device__ float operator()(std::int64_t, std::int64_t i) const {
    return dy[i] * x[i] * (factor * sigmoid(s[i % width]));
  }
};

/// One clip of an attention.
struct Clip {
  std::int64_t begin, end, heads, d, span;
  float cap;

  /// How many rows row t sees.
  __device__ std::int64_t seen(std::int64_t t) const { return t - begin + 1 < span ? t - begin + 1 : span; }
};

struct AttentionPointers {
  float *q, *k, *v, *r;
  explicit AttentionPointers(const LocalAttentionInputs& in)
      : q(in.q.f32()), k(in.k.f32()), v(in.v.f32()), r(in.r.f32()) {}
};

__device__ float dot(const float* a, const float* b, std::int64_t n) {
  float sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

/// Of the first `count` of a row's scores.
struct Softmax {
  float most = -INFINITY, sum = 0;
  __device__ Softmax(const float* scores, std::int64_t count) {
    for (std::int64_t n = 0; n < count; ++n) most = fmaxf(most, scores[n]);
    for (std::int64_t n = 0; n < count; ++n) sum += expf(scores[n] - most);
  }
  __device__ float operator()(float score) const { return expf(score - most) / sum; }
};

/// An index is a score: of a row of the clip, a head and a distance.
__global__ void scores_kernel(std::int64_t count, Clip clip, AttentionPointers in, float* scores) {
  const std::int64_t i = index_of_thread() + clip.begin * clip.heads * clip.span;
  if (index_of_thread() >= count) return;
  const std::int64_t row = i / clip.span, n = i % clip.span, h = row % clip.heads;
  if (n >= clip.seen(row / clip.heads)) return;
  const float* q = in.q + row * clip.d;
  const float content = dot(q, in.k + (row - n * clip.heads) * clip.d, clip.d);
  scores[i] = clip.cap * tanhf((content + dot(q, in.r + (n * clip.heads + h) * clip.d, clip.d)) / clip.cap);
}

/// An index is an element of the clip's rows.
__global__ void mix_kernel(std::int64_t count, Clip clip, AttentionPointers in, const float* scores, float* out) {
  const std::int64_t i = index_of_thread() + clip.begin * clip.heads * clip.d;
  if (index_of_thread() >= count) return;
  const std::int64_t row = i / clip.d, seen = clip.seen(row / clip.heads);
  const float* a = scores + row * clip.span;
  const Softmax softmax(a, seen);
  float sum = 0;
  for (std::int64_t n = 0; n < seen; ++n) sum += softmax(a[n]) * in.v[i - n * clip.heads * clip.d];
  out[i] = sum;
}

/// Of every score its weight, and the gradient of what it was before the cap. An index is a row and a head.
__global__ void slopes_kernel(std::int64_t count, Clip clip, AttentionPointers in, const float* dout,
                              const float* scores, float* weights, float* slopes) {
  const std::int64_t row = index_of_thread() + clip.begin * clip.heads;
  if (index_of_thread() >= count) return;
  const std::int64_t seen = clip.seen(row / clip.heads);
  const float* a = scores + row * clip.span;
  float *p = weights + row * clip.span, *dz = slopes + row * clip.span, mean = 0;
  const Softmax softmax(a, seen);
  for (std::int64_t n = 0; n < seen; ++n) {
    p[n] = softmax(a[n]);
    dz[n] = dot(dout + row * clip.d, in.v + (row - n * clip.heads) * clip.d, clip.d);
    mean += p[n] * dz[n];
  }
  for (std::int64_t n = 0; n < seen; ++n) dz[n] = p[n] * (dz[n] - mean) * (1.0f - a[n] / clip.cap * (a[n] / clip.cap));
}

/// An index is an element of the clip's rows.
__global__ void row_gradients_kernel(std::int64_t count, Clip clip, AttentionPointers in, const float* dout,
                                     const float* weights, const float* slopes, AttentionPointers gradients) {
  const std::int64_t i = index_of_thread() + clip.begin * clip.heads * clip.d, step = clip.heads * clip.d;
  if (index_of_thread() >= count) return;
  const std::int64_t row = i / clip.d, t = row / clip.heads, within = i % step;
  float dq = 0, dk = 0, dv = 0;
  for (std::int64_t n = 0; n < clip.seen(t); ++n)
    dq += slopes[row * clip.span + n] * (in.k[i - n * step] + in.r[n * step + within]);
  for (std::int64_t n = 0; n < clip.span && t + n < clip.end; ++n) {
    const std::int64_t seen_by = (row + n * clip.heads) * clip.span + n;
    dk += slopes[seen_by] * in.q[i + n * step];
    dv += weights[seen_by] * dout[i + n * step];
  }
  gradients.q[i] = dq;
  gradients.k[i] = dk;
  gradients.v[i] = dv;
}

/// Over all rows. An index is an element of r.
__global__ void distance_gradients_kernel(std::int64_t count, std::int64_t rows, std::int64_t heads, std::int64_t d,
                                          std::int64_t span, const float* q, const float* slopes, float* dr) {
  const std::int64_t i = index_of_thread();
  if (i >= count) return;
  const std::int64_t n = i / (heads * d), h = i / d % heads;
  float sum = 0;
  for (std::int64_t row = h; row < rows * heads; row += heads) sum += slopes[row * span + n] * q[row * d + i % d];
  dr[i] = sum;
}

/// body(clip) for every one.
template <typename Body>
void for_each_clip(const LocalAttention& attention, const Sequences& clips, const Tensor& q, const Body& body) {
  for (std::int64_t b = 0; b < clips.count(); ++b)
    body(Clip{clips.begin(b), clips.end(b), q.size(1), q.size(2), attention.span, attention.cap}, clips.length(b));
}

}  // namespace

void activation_forward(Device& device, Activation activation, const Tensor& x, const Tensor& y) {
  const auto kernel = activation == Activation::relu ? activation_kernel<Relu> : activation_kernel<Silu>;
  for_each_index(device, x.elements(), kernel, Elements(x), Elements(y));
}

void activation_backward(Device& device, Activation activation, const Tensor& dy, const Tensor& x, const Tensor& dx) {
  const auto kernel =
      activation == Activation::relu ? activation_backward_kernel<Relu> : activation_backward_kernel<Silu>;
  for_each_index(device, x.elements(), kernel, Elements(dy), Elements(x), Elements(dx));
}

void gated_sigmoid_forward(Device& device, const Tensor& x, const Tensor& y) {
  for_each_index(device, y.elements(), gated_sigmoid_kernel, y.size(1), Elements(x), Elements(y));
}

void gated_sigmoid_backward(Device& device, const Tensor& dy, const Tensor& x, const Tensor& dx) {
  for_each_index(device, dy.elements(), gated_sigmoid_backward_kernel, dy.size(1), Elements(dy), Elements(x),
                 Elements(dx));
}

void neighbours_forward(Device& device, const SoundGrid& in, const SoundGrid& out, const Tensor& x, const Tensor& y) {
  const std::int64_t channels = x.size(1);
  for_each_grid(in, out, [&](const Grid& from, const Grid& to) {
    for_each_index(device, to.length * to.frequencies * 9 * channels, neighbours_kernel, from, to, channels,
                   Elements(x), Elements(y));
  });
}

void neighbours_backward(Device& device, const SoundGrid& in, const SoundGrid& out, const Tensor& dy,
                         const Tensor& dx) {
  const std::int64_t channels = dx.size(1);
  for_each_grid(in, out, [&](const Grid& from, const Grid& to) {
    for_each_index(device, from.length * from.frequencies * channels, neighbours_backward_kernel, from, to, channels,
                   Elements(dy), Elements(dx));
  });
}

void causal_convolution_forward(Device& device, const Sequences& clips, const Tensor& x, const Tensor& w,
                                const Tensor& y) {
  const std::int64_t width = x.size(1);
  for (std::int64_t b = 0; b < clips.count(); ++b)
    for_each_index(device, clips.length(b) * width, convolution_kernel, clips.begin(b) * width, width,
                   w.elements() / width, Elements(x), Elements(w), Elements(y));
}

void causal_convolution_backward_input(Device& device, const Sequences& clips, const Tensor& dy, const Tensor& w,
                                       const Tensor& dx) {
  const std::int64_t width = dx.size(1);
  for (std::int64_t b = 0; b < clips.count(); ++b)
    for_each_index(device, clips.length(b) * width, convolution_backward_kernel, clips.begin(b) * width, width,
                   w.elements() / width, Elements(dy), Elements(w), Elements(dx));
}

void causal_convolution_backward_weight(Device& device, const Sequences& clips, const Tensor& dy, const Tensor& x,
                                        const Tensor& dw) {
  const std::int64_t width = x.size(1);
  for (std::int64_t b = 0; b < clips.count(); ++b)
    add_column_sums(device, clips.length(b), dw.elements(),
                    TapTerm{clips.begin(b) * width, width, dw.elements() / width, Elements(dy), Elements(x)}, dw);
}

void scale_by_softplus_forward(Device& device, float factor, const Tensor& x, const Tensor& s, const Tensor& y) {
  for_each_index(device, x.elements(), softplus_kernel, x.size(-1), factor, x.f32(), Elements(s), y.f32());
}

void scale_by_softplus_backward(Device& device, float factor, const Tensor& dy, const Tensor& x, const Tensor& s,
                                const Tensor& dx, const Tensor& ds) {
  const std::int64_t width = x.size(-1);
  for_each_index(device, x.elements(), softplus_kernel, width, factor, dy.f32(), Elements(s), dx.f32());
  if (ds.empty()) return;
  add_column_sums(device, x.elements() / width, width, SoftplusTerm{width, factor, dy.f32(), x.f32(), Elements(s)}, ds);
}

void local_attention_forward(Device& device, const LocalAttention& attention, const Sequences& clips,
                             const LocalAttentionInputs& in, const Tensor& out, const Tensor& scores) {
  const AttentionPointers pointers(in);
  for_each_clip(attention, clips, in.q, [&](const Clip& clip, std::int64_t length) {
    for_each_index(device, length * clip.heads * clip.span, scores_kernel, clip, pointers, scores.f32());
    for_each_index(device, length * clip.heads * clip.d, mix_kernel, clip, pointers, scores.f32(), out.f32());
  });
}

void local_attention_backward(Device& device, const LocalAttention& attention, const Sequences& clips,
                              const Tensor& dout, const LocalAttentionInputs& in, const Tensor& scores,
                              const LocalAttentionInputs& gradients) {
  const Tensor weights = device.zeros(scores.shape()), slopes = device.zeros(scores.shape());
  const AttentionPointers pointers(in), sums(gradients);
  for_each_clip(attention, clips, in.q, [&](const Clip& clip, std::int64_t length) {
    for_each_index(device, length * clip.heads, slopes_kernel, clip, pointers, dout.f32(), scores.f32(), weights.f32(),
                   slopes.f32());
    for_each_index(device, length * clip.heads * clip.d, row_gradients_kernel, clip, pointers, dout.f32(),
                   weights.f32(), slopes.f32(), sums);
  });
  for_each_index(device, in.r.elements(), distance_gradients_kernel, clips.rows(), in.q.size(1), in.q.size(2),
                 attention.span, in.q.f32(), slopes.f32(), gradients.r.f32());
}

}  // namespace mtp::ops::cuda
