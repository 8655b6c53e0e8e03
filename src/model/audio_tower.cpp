#include "mtp/model/audio_tower.h"

#include <cmath>
#include <numbers>

#include "mtp/model/open_units.h"

namespace mtp::model {

namespace {

constexpr float norm_eps = 1e-6f;  // of most norms, whatever the configuration says

ops::Bounds bounds_of(const hf::AudioConfig& config) { return {-config.clipping, config.clipping}; }

}  // namespace

AudioFeedForward::AudioFeedForward(const Tensors& tensors, const hf::AudioConfig& config)
    : bounds_(bounds_of(config)),
      weight_(config.residual_weight),
      pre_norm_(tensors.vector("pre_layer_norm", config.hidden_size)),
      in_(tensors.below("ffw_layer_1."), 4 * config.hidden_size, config.hidden_size, config.use_clipped_linears),
      out_(tensors.below("ffw_layer_2."), config.hidden_size, 4 * config.hidden_size, config.use_clipped_linears),
      post_norm_(tensors.vector("post_layer_norm", config.hidden_size)) {}

void AudioFeedForward::read_buffers(const hf::TensorFiles& files) {
  in_.read_buffers(files);
  out_.read_buffers(files);
}

Value AudioFeedForward::forward(Tape& g, const Value& x_TA) const {
  const Value inner = in_.forward(g, g.rms_norm(g.clamp(x_TA, bounds_), pre_norm_, norm_eps));
  const Value y = g.clamp(out_.forward(g, g.activation(ops::Activation::silu, inner)), bounds_);
  return g.add(x_TA, g.scale(g.rms_norm(y, post_norm_, norm_eps), weight_));
}

AudioAttention::AudioAttention(const Tensors& tensors, const hf::AudioConfig& config)
    : heads_(config.num_attention_heads),
      head_dim_(config.head_dim()),
      attention_{config.attention_span, config.attention_logit_cap},
      q_proj_(tensors.below("q_proj."), config.hidden_size, config.hidden_size, config.use_clipped_linears),
      k_proj_(tensors.below("k_proj."), config.hidden_size, config.hidden_size, config.use_clipped_linears),
      v_proj_(tensors.below("v_proj."), config.hidden_size, config.hidden_size, config.use_clipped_linears),
      post_(tensors.below("post."), config.hidden_size, config.hidden_size, config.use_clipped_linears),
      relative_k_proj_(tensors.matrix("relative_k_proj", config.hidden_size, config.hidden_size)),
      per_dim_scale_(tensors.factors("per_dim_scale", head_dim_, 0)) {}

void AudioAttention::read_buffers(const hf::TensorFiles& files) {
  for (ClippableLinear* linear : {&q_proj_, &k_proj_, &v_proj_, &post_}) linear->read_buffers(files);
}

Value AudioAttention::forward(Tape& g, const Value& x_TA, const Tensor& distances_DA) const {
  constexpr double ln2 = std::numbers::ln2;
  const DType dtype = x_TA.data.dtype();
  // All of attention is fp32.
  const auto in_heads = [&](const Value& rows) {
    return g.convert(g.view(rows, {rows.data.size(0), heads_, head_dim_}), DType::f32);
  };
  const auto query_scale = static_cast<float>(1 / (std::sqrt(static_cast<double>(head_dim_)) * ln2));
  const auto key_scale = static_cast<float>(std::log(1 + std::numbers::e) / ln2);
  const Value q = g.scale_by_softplus(in_heads(q_proj_.forward(g, x_TA)), per_dim_scale_, query_scale);
  const Value k = g.scale(in_heads(k_proj_.forward(g, x_TA)), key_scale);
  const Value v = in_heads(v_proj_.forward(g, x_TA));
  const Value r = in_heads(g.linear(g.convert(Graph::constant(distances_DA), dtype), relative_k_proj_));
  const Value mixed = g.local_attention(q, {k, v}, r, attention_);
  return post_.forward(g, g.convert(g.view(mixed, x_TA.data.shape()), dtype));
}

LightConvolution::LightConvolution(const Tensors& tensors, const hf::AudioConfig& config)
    : bounds_(bounds_of(config)),
      eps_(config.rms_norm_eps),
      pre_norm_(tensors.vector("pre_layer_norm", config.hidden_size)),
      start_(tensors.below("linear_start."), 2 * config.hidden_size, config.hidden_size, config.use_clipped_linears),
      end_(tensors.below("linear_end."), config.hidden_size, config.hidden_size, config.use_clipped_linears),
      convolution_(tensors.convolution("depthwise_conv1d", {config.hidden_size, 1, config.conv_kernel_size})),
      norm_(tensors.vector("conv_norm", config.hidden_size)) {}

void LightConvolution::read_buffers(const hf::TensorFiles& files) {
  start_.read_buffers(files);
  end_.read_buffers(files);
}

Value LightConvolution::forward(Tape& g, const Value& x_TA) const {
  const Value gated = g.gated_sigmoid(start_.forward(g, g.rms_norm(x_TA, pre_norm_, eps_)));
  const Value mixed = g.clamp(g.causal_convolution(gated, convolution_), bounds_);
  return g.add(x_TA, end_.forward(g, g.activation(ops::Activation::silu, g.rms_norm(mixed, norm_, eps_))));
}

ConformerLayer::ConformerLayer(const Tensors& tensors, const hf::AudioConfig& config)
    : name_(tensors.unit()),
      bounds_(bounds_of(config)),
      first_(tensors.below("feed_forward1."), config),
      last_(tensors.below("feed_forward2."), config),
      pre_attention_norm_(tensors.vector("norm_pre_attn", config.hidden_size)),
      post_attention_norm_(tensors.vector("norm_post_attn", config.hidden_size)),
      out_norm_(tensors.vector("norm_out", config.hidden_size)),
      attention_(tensors.below("self_attn."), config),
      convolution_(tensors.below("lconv1d."), config),
      parameters_(tensors.declared()) {}

void ConformerLayer::read_buffers(const hf::TensorFiles& files) {
  first_.read_buffers(files);
  last_.read_buffers(files);
  attention_.read_buffers(files);
  convolution_.read_buffers(files);
}

Value ConformerLayer::forward(Tape& graph, const Value& x_TA, const Tensor& distances_DA) const {
  const auto run = [this, distances_DA](Graph& segment, std::span<const Value> values) {
    auto& g = static_cast<Tape&>(segment);  // a tape's segments run on tapes
    const Value x = first_.forward(g, values[0]);
    const Value n = g.rms_norm(g.clamp(x, bounds_), pre_attention_norm_, norm_eps);
    const Value mixed = g.clamp(attention_.forward(g, n, distances_DA), bounds_);
    const Value heard = convolution_.forward(g, g.add_rms_norm(x, mixed, post_attention_norm_, norm_eps));
    return std::vector{g.rms_norm(g.clamp(last_.forward(g, heard), bounds_), out_norm_, norm_eps)};
  };
  return graph.segment({x_TA}, run, name_)[0];
}

AudioTower::AudioTower(const Tensors& all, const hf::AudioConfig& config, std::int64_t hidden,
                       const Settings::Freeze& freeze)
    : config_(config) {
  const Tensors tower = all.below("model.audio_tower.");
  const auto in_unit = [&](const std::string& unit) {
    return tower.in_unit("base.audio." + unit, !freeze.base && !freeze.audio);
  };
  const Tensors begin = in_unit("subsample").below("subsample_conv_projection.");
  for (std::size_t i = 0; i < config.channels.size(); ++i) {
    const Tensors layer = begin.below("layer" + std::to_string(i) + ".");
    const std::int64_t in = i == 0 ? 1 : config.channels[i - 1], out = config.channels[i];
    subsampling_.push_back({layer.convolution("conv", {out, in, 3, 3}), layer.vector("norm", out)});
  }
  input_proj_ = begin.matrix("input_proj_linear", config.hidden_size, config.frame_size() / 4 * config.channels[1]);
  for (int i = 0; i < config.num_hidden_layers; ++i) {
    const std::string name = "layers." + std::to_string(i);
    layers_.emplace_back(in_unit(name).below(name + "."), config);
  }
  output_proj_ = in_unit("output").matrix("output_proj", config.output_size, config.hidden_size);
  output_bias_ = in_unit("output").bias("output_proj", config.output_size);
  projector_ = Projector(
      all.in_unit("base.audio.projector", !freeze.base && !freeze.audio_projector).below("model.embed_audio."), hidden,
      config.output_size, config.rms_norm_eps);
}

void AudioTower::read_buffers(const hf::TensorFiles& files) {
  for (ConformerLayer& layer : layers_) layer.read_buffers(files);
}

std::int64_t AudioTower::soft_tokens(std::int64_t frames) const {
  return (frames + hf::AudioConfig::frames_per_token - 1) / hf::AudioConfig::frames_per_token;
}

Value AudioTower::forward(Tape& g, std::span<const std::int64_t> lengths, std::span<const float> frames) const {
  Value x_TA = subsample(g, lengths, frames);
  const Tensor distances_DA = g.device().from_host(distances(), {config_.attention_span, config_.hidden_size});
  for (const ConformerLayer& layer : layers_) {
    const std::vector<Graph::Scope> weights = open_units(g, layer.parameters());
    x_TA = layer.forward(g, x_TA, distances_DA);
  }
  const Graph::Scope weights = g.scope(output_proj_.group());
  return projector_.forward(g, g.add_bias(g.linear(x_TA, output_proj_), output_bias_));
}

Value AudioTower::subsample(Tape& g, std::span<const std::int64_t> lengths, std::span<const float> frames) const {
  const Graph::Scope weights = g.scope(input_proj_.group());
  ops::SoundGrid grid{ops::Sequences({lengths.begin(), lengths.end()}), config_.frame_size()};
  const Tensor all = g.device().from_host(frames, {grid.rows(), 1});
  Value x = g.convert(Graph::constant(all), input_proj_.value().dtype());
  for (const Subsampling& layer : subsampling_) {
    std::vector<std::int64_t> halves;
    for (std::int64_t b = 0; b < grid.clips.count(); ++b) halves.push_back((grid.clips.length(b) + 1) / 2);
    const ops::SoundGrid half{ops::Sequences(halves), (grid.frequencies + 1) / 2};
    const Value filtered = g.linear(g.neighbours(x, grid, half), layer.convolution);
    x = g.activation(ops::Activation::relu, g.layer_norm(filtered, layer.norm, {}, config_.rms_norm_eps));
    grid = half;
  }
  return g.linear(g.view(x, {grid.clips.rows(), grid.frequencies * config_.channels[1]}), input_proj_);
}

/// Sines, then cosines, of every distance times rates that fall from 1 to 1/10000.
std::vector<float> AudioTower::distances() const {
  const std::int64_t rates = config_.hidden_size / 2;
  const auto step = static_cast<float>(-std::log(10000.0) / static_cast<double>(std::max<std::int64_t>(rates - 1, 1)));
  std::vector<float> table;
  for (std::int64_t distance = 0; distance < config_.attention_span; ++distance)
    for (std::int64_t i = 0; i < 2 * rates; ++i) {
      const float angle = static_cast<float>(distance) * std::exp(static_cast<float>(i % rates) * step);
      table.push_back(i < rates ? std::sin(angle) : std::cos(angle));
    }
  return table;
}

}  // namespace mtp::model
