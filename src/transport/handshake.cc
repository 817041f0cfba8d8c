#include "gearshift/transport/handshake.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "gearshift/base/log.h"
#include "gearshift/base/serial.h"

namespace gearshift::transport {
namespace {

using base::Error;
using base::ErrorCode;
using base::Result;
using base::Status;
using base::TimePoint;

/// Greeting: magic (8) · version, purpose, generation, rank, stream, 0 (4 each) · link (8) ·
/// nonce (32). The layout stays for ever, so that any two versions can name each other.
constexpr std::array<char, 8> kMagic = {'G', 'E', 'A', 'R', 'S', 'H', 'F', 'T'};
constexpr std::size_t kNonceBytes = 32;
constexpr std::size_t kGreetingBytes = 8 + 6 * 4 + 8 + kNonceBytes;
constexpr std::size_t kProofBytes = 32;

using Greeting = std::array<std::byte, kGreetingBytes>;
using Proof = std::array<std::byte, kProofBytes>;
enum class Role : std::uint8_t { kClient = 1, kServer = 2 };
/// Precedes the server's proof; a refused client learns why its connection ends.
enum class Verdict : std::uint32_t { kRefused = 0, kWelcome = 1 };

/// exit() takes OpenSSL down, while threads of sessions that nobody has ended still answer callers.
std::atomic<bool> exiting{false};
std::atomic<int> openssl_calls{0};

/// In a child of a fork, calls of threads that it does not have never end.
void end_openssl_calls() {
  exiting = true;
  for (int left = 200; openssl_calls > 0 && left > 0; --left) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

/// Calls `f`, which says whether it worked, unless OpenSSL may be gone.
template <typename F>
Status with_openssl(const char* failure, F&& f) {
  // OpenSSL arranges for its own end first, so that ours comes before it.
  static const bool usable =
      OPENSSL_init_crypto(0, nullptr) == 1 && std::atexit(&end_openssl_calls) == 0;
  ++openssl_calls;
  const bool gone = !usable || exiting;
  const bool worked = !gone && f();
  --openssl_calls;
  if (gone) return Error(ErrorCode::kAborted, "this process is ending");
  if (!worked) return Error(ErrorCode::kIo, failure);
  return {};
}

Status draw(std::span<std::byte> into) {
  return with_openssl("the system's random generator failed", [&] {
    return RAND_bytes(reinterpret_cast<unsigned char*>(into.data()),
                      static_cast<int>(into.size())) == 1;
  });
}

Result<Greeting> make_greeting(const Hello& hello) {
  std::array<std::byte, kNonceBytes> nonce;
  GEARSHIFT_RETURN_IF_ERROR(draw(nonce));
  base::Writer out;
  for (char c : kMagic) out.put(c);
  out.put(hello.version).put(hello.purpose).put(hello.generation.value);
  out.put(static_cast<std::int32_t>(hello.rank.value)).put(hello.stream).put(std::uint32_t{0});
  out.put(hello.link);
  Greeting greeting;
  std::memcpy(greeting.data(), out.view().data(), out.view().size());
  std::memcpy(greeting.data() + out.view().size(), nonce.data(), nonce.size());
  return greeting;
}

Hello parse_greeting(const Greeting& greeting) {
  base::Reader in(base::ConstBytes(greeting).subspan(kMagic.size()));
  Hello hello;
  hello.version = in.get<std::uint32_t>();
  hello.purpose = in.get<std::uint32_t>();
  hello.generation = base::Generation(in.get<std::uint32_t>());
  hello.rank = base::Rank(in.get<std::int32_t>());
  hello.stream = in.get<std::uint32_t>();
  in.get<std::uint32_t>();
  hello.link = in.get<std::uint64_t>();
  return hello;
}

/// Reads the magic on its own, so that garbage is refused without waiting for more of it.
Result<Greeting> read_greeting(ByteStream& stream, TimePoint deadline) {
  Greeting greeting;
  base::Bytes all(greeting);
  GEARSHIFT_RETURN_IF_ERROR(stream.read_exact(all.first(kMagic.size()), deadline));
  if (std::memcmp(greeting.data(), kMagic.data(), kMagic.size()) != 0) {
    return Error(ErrorCode::kUnauthenticated, "not a gearshift process (no magic)");
  }
  GEARSHIFT_RETURN_IF_ERROR(stream.read_exact(all.subspan(kMagic.size()), deadline));
  return greeting;
}

Error mismatch(const char* what, std::uint32_t theirs, std::uint32_t mine) {
  return {ErrorCode::kMismatch, std::string(what) + " differs: the peer has " +
                                    std::to_string(theirs) + ", this process " +
                                    std::to_string(mine)};
}

Status check_compatible(const Hello& theirs, const Hello& mine) {
  if (theirs.version != mine.version) {
    return mismatch("protocol version", theirs.version, mine.version);
  }
  if (theirs.purpose != mine.purpose) return mismatch("purpose", theirs.purpose, mine.purpose);
  if (theirs.generation != mine.generation) {
    return mismatch("generation", theirs.generation.value, mine.generation.value);
  }
  return {};
}

/// HMAC-SHA-256(token, role ‖ own greeting ‖ peer greeting); a greeting is hello and nonce. The
/// role keeps a peer from sending our own proof back to us.
Result<Proof> prove(Role role, const Greeting& own, const Greeting& peer,
                    const std::string& token) {
  std::array<std::byte, 1 + 2 * kGreetingBytes> text;
  text[0] = static_cast<std::byte>(role);
  std::memcpy(text.data() + 1, own.data(), own.size());
  std::memcpy(text.data() + 1 + own.size(), peer.data(), peer.size());
  Proof proof;
  GEARSHIFT_RETURN_IF_ERROR(with_openssl("HMAC-SHA-256 is not available", [&] {
    unsigned int size = 0;
    return HMAC(EVP_sha256(), token.c_str(), static_cast<int>(token.size()),
                reinterpret_cast<const unsigned char*>(text.data()), text.size(),
                reinterpret_cast<unsigned char*>(proof.data()), &size) != nullptr &&
           size == kProofBytes;
  }));
  return proof;
}

Status check_proof(const Proof& theirs, const Proof& expected) {
  if (CRYPTO_memcmp(theirs.data(), expected.data(), kProofBytes) != 0) {
    return Error(ErrorCode::kUnauthenticated, "the peer does not know this job's token");
  }
  return {};
}

}  // namespace

Result<Hello> handshake_as_client(ByteStream& stream, const Hello& mine, const std::string& token,
                                  TimePoint deadline) {
  GEARSHIFT_ASSIGN_OR_RETURN(const Greeting own, make_greeting(mine));
  GEARSHIFT_RETURN_IF_ERROR(stream.write_all(own, deadline));
  GEARSHIFT_ASSIGN_OR_RETURN(const Greeting peer, read_greeting(stream, deadline));
  const Hello theirs = parse_greeting(peer);
  GEARSHIFT_RETURN_IF_ERROR(check_compatible(theirs, mine));

  GEARSHIFT_ASSIGN_OR_RETURN(const Proof proof, prove(Role::kClient, own, peer, token));
  GEARSHIFT_RETURN_IF_ERROR(stream.write_all(proof, deadline));
  Verdict verdict = Verdict::kRefused;
  GEARSHIFT_RETURN_IF_ERROR(stream.read_exact(base::writable_bytes_of(verdict), deadline));
  Proof answer;
  GEARSHIFT_RETURN_IF_ERROR(stream.read_exact(answer, deadline));
  if (verdict != Verdict::kWelcome) {
    return Error(ErrorCode::kUnauthenticated, "the peer refused this process's job token");
  }
  GEARSHIFT_ASSIGN_OR_RETURN(const Proof expected, prove(Role::kServer, peer, own, token));
  GEARSHIFT_RETURN_IF_ERROR(check_proof(answer, expected));
  return theirs;
}

Result<Hello> handshake_as_server(ByteStream& stream, const Hello& mine, const std::string& token,
                                  TimePoint deadline) {
  GEARSHIFT_ASSIGN_OR_RETURN(const Greeting peer, read_greeting(stream, deadline));
  GEARSHIFT_ASSIGN_OR_RETURN(const Greeting own, make_greeting(mine));
  // Sent before anything is judged, so that the client, too, can name what differs.
  GEARSHIFT_RETURN_IF_ERROR(stream.write_all(own, deadline));
  const Hello theirs = parse_greeting(peer);
  GEARSHIFT_RETURN_IF_ERROR(check_compatible(theirs, mine));

  Proof proof;
  GEARSHIFT_RETURN_IF_ERROR(stream.read_exact(proof, deadline));
  GEARSHIFT_ASSIGN_OR_RETURN(const Proof expected, prove(Role::kClient, peer, own, token));
  const Status proved = check_proof(proof, expected);
  // Only who has proved to know the token gets a proof: this process is no oracle for strangers.
  Proof answer{};
  if (proved) {
    GEARSHIFT_ASSIGN_OR_RETURN(answer, prove(Role::kServer, own, peer, token));
  }
  std::array<std::byte, sizeof(Verdict) + kProofBytes> reply;
  const Verdict verdict = proved ? Verdict::kWelcome : Verdict::kRefused;
  std::memcpy(reply.data(), &verdict, sizeof(verdict));
  std::memcpy(reply.data() + sizeof(verdict), answer.data(), answer.size());
  const Status sent = stream.write_all(reply, deadline);
  GEARSHIFT_RETURN_IF_ERROR(proved);
  GEARSHIFT_RETURN_IF_ERROR(sent);
  return theirs;
}

std::string make_token() {
  std::array<std::byte, 32> secret;
  if (const Status drawn = draw(secret); !drawn) {
    // A guessable token would be worse than none, and no caller could do better.
    GEARSHIFT_LOG_AT(kError, "transport", drawn.error().message);
    std::abort();
  }
  constexpr char kDigits[] = "0123456789abcdef";
  std::string token;
  for (const std::byte byte : secret) {
    token += kDigits[std::to_integer<unsigned>(byte) >> 4];
    token += kDigits[std::to_integer<unsigned>(byte) & 15];
  }
  return token;
}

}  // namespace gearshift::transport
