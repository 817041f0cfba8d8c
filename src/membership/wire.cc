#include "membership/wire.h"

#include "gearshift/base/serial.h"
#include "gearshift/transport/text.h"

namespace gearshift::membership {
namespace {

using transport::cut_text;

/// Texts are cut, so that a notice always fits and a report stays readable.
constexpr std::size_t kLongestOperation = 200;
constexpr std::size_t kLongestText = 4000;

void write(base::Writer& out, const ProgressNote& note) {
  out.put(note.step)
      .put(cut_text(note.operation, kLongestOperation))
      .put(note.seconds_in_operation);
}

ProgressNote read(base::Reader& in) {
  ProgressNote note;
  note.step = in.get<std::int64_t>();
  note.operation = in.get_string();
  note.seconds_in_operation = in.get<double>();
  return note;
}

}  // namespace

std::string ProgressNote::phrase() const {
  return (operation.starts_with("idle") ? operation : "in " + operation) + " at step " +
         std::to_string(step);
}

std::vector<std::byte> encode(const ProgressNote& note) {
  base::Writer out;
  write(out, note);
  return out.take();
}

base::Result<ProgressNote> decode_progress(base::ConstBytes bytes) {
  base::Reader in(bytes);
  ProgressNote note = read(in);
  GEARSHIFT_RETURN_IF_ERROR(in.status("heartbeat"));
  return note;
}

std::vector<std::byte> encode(const Notice& notice) {
  base::Writer out;
  out.put(notice.kind).put(static_cast<std::uint8_t>(notice.code));
  out.put(static_cast<std::int32_t>(notice.culprit)).put(cut_text(notice.what, kLongestText));
  write(out, notice.progress);
  return out.take();
}

base::Result<Notice> decode_notice(base::ConstBytes bytes) {
  base::Reader in(bytes);
  const auto kind = in.get<std::uint8_t>();
  const auto code = in.get<std::uint8_t>();
  Notice notice;
  notice.culprit = in.get<std::int32_t>();
  notice.what = in.get_string();
  notice.progress = read(in);
  GEARSHIFT_RETURN_IF_ERROR(in.status("notice"));
  if (kind < static_cast<std::uint8_t>(NoticeKind::kFailure) ||
      kind > static_cast<std::uint8_t>(NoticeKind::kWake) ||
      code > static_cast<std::uint8_t>(base::ErrorCode::kClosed)) {
    return base::Error(base::ErrorCode::kProtocol, "notice: unknown kind or code");
  }
  notice.kind = static_cast<NoticeKind>(kind);
  notice.code = static_cast<base::ErrorCode>(code);
  return notice;
}

}  // namespace gearshift::membership
