#include "mtp/ops/embedding.h"

#include "back_ends.h"

MTP_BACK_ENDS(lookup_forward)
MTP_BACK_ENDS(lookup_backward)
MTP_BACK_ENDS(put_rows)
MTP_BACK_ENDS(shift_rows_forward)
MTP_BACK_ENDS(shift_rows_backward)

namespace mtp::ops {

namespace {

void check_lookup(const Tensor& table, const Tensor& ids, const Tensor& rows) {
  MTP_ASSERT(rows.size(0) == ids.elements() && rows.size(1) == table.size(1) && ids.dtype() == DType::i64);
}

void check_shift(const Sequences& sequences, std::int64_t by, const Tensor& from, const Tensor& to) {
  MTP_ASSERT(by >= 0 && from.size(0) == sequences.rows() && to.elements() == from.elements());
}

}  // namespace

void lookup_forward(Device& device, const Tensor& table, const Tensor& ids, float factor, const Tensor& y) {
  check_lookup(table, ids, y);
  MTP_RUN(lookup_forward, table, ids, factor, y);
}

void lookup_backward(Device& device, const Tensor& dy, const Tensor& ids, float factor, std::int64_t skip,
                     const Tensor& dtable) {
  check_lookup(dtable, ids, dy);
  MTP_RUN(lookup_backward, dy, ids, factor, skip, dtable);
}

void put_rows(Device& device, const Tensor& x, const Tensor& rows, const Tensor& y) {
  check_lookup(y, rows, x);
  MTP_RUN(put_rows, x, rows, y);
}

void shift_rows_forward(Device& device, const Sequences& sequences, std::int64_t by, const Tensor& x,
                        const Tensor& fill, const Tensor& y) {
  check_shift(sequences, by, x, y);
  MTP_ASSERT(fill.elements() == x.size(1));
  MTP_RUN(shift_rows_forward, sequences, by, x, fill, y);
}

void shift_rows_backward(Device& device, const Sequences& sequences, std::int64_t by, const Tensor& dy,
                         const Tensor& dx) {
  check_shift(sequences, by, dy, dx);
  MTP_RUN(shift_rows_backward, sequences, by, dy, dx);
}

}  // namespace mtp::ops
