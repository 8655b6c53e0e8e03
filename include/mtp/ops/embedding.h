#pragma once

#include "mtp/ops/sequences.h"
#include "mtp/tensor/device.h"

namespace mtp::ops {

/// y[t] = factor · table[ids[t]].   table [V, W], ids [T] int64 with 0 ≤ id < V, y [T, W]; table and y fp32 or bf16
void lookup_forward(Device& device, const Tensor& table, const Tensor& ids, float factor, const Tensor& y);

/// dtable[ids[t]] += factor · dy[t], added in the order of t. Rows with id `skip` give nothing (PyTorch's padding_idx).
///   dy [T, W] fp32 or bf16, dtable [V, W] fp32
void lookup_backward(Device& device, const Tensor& dy, const Tensor& ids, float factor, std::int64_t skip,
                     const Tensor& dtable);

/// y[rows[r]] = x[r]; other rows of y stay. `lookup_forward` of y by these rows is the gradient of x.
///   x [R, W], rows [R] int64, each of them once, y [T, W]; x and y both fp32 or both bf16
void put_rows(Device& device, const Tensor& x, const Tensor& rows, const Tensor& y);

/// Row t of each sequence becomes its row t + by; where that is past the end, `fill`.
///   x, y [T, W], fill [1, W], all fp32 or all bf16
void shift_rows_forward(Device& device, const Sequences& sequences, std::int64_t by, const Tensor& x,
                        const Tensor& fill, const Tensor& y);

/// dx of the above, written: row t gets row t - by, or zero. `fill` gets no gradient.
void shift_rows_backward(Device& device, const Sequences& sequences, std::int64_t by, const Tensor& dy,
                         const Tensor& dx);

}  // namespace mtp::ops
