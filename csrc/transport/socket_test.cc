// Connections and listener over loopback and in shared memory.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/testing.h"
#include "transport/connectors.h"
#include "transport/shared_areas.h"
#include "transport/socket_listener.h"
#include "transport/transport_testing.h"
#include "wire/messages.h"

namespace embery {
namespace {

struct Fixture {
  explicit Fixture(Sharing sharing) : shares(sharing == Sharing::kMemory) {}

  const bool shares;
  Echo echo;
  BodyPool pool;
  ListenerStats stats;
  std::unique_ptr<SocketListener> listener =
      std::move(shares ? SocketListener::OpenShm(3, echo, pool, stats)
                       : SocketListener::OpenTcp("127.0.0.1", 0, 3, echo, pool, stats))
          .value();

  std::unique_ptr<Connector> connector(const std::string& secret = kSecret) const {
    return shares ? MakeShmConnector({3, listener->name()}, 1, secret)
                  : MakeTcpConnector({3, "127.0.0.1", listener->port(), ""}, 1, secret);
  }
};

TEST(BodiesOfAllSizesComeBackOverTcp) {
  Fixture fixture(Sharing::kNothing);
  BodiesOfAllSizesComeBack(fixture);
}
TEST(BodiesOfAllSizesComeBackOverSharedMemory) {
  Fixture fixture(Sharing::kMemory);
  BodiesOfAllSizesComeBack(fixture);
}
TEST(ManyConnectionsAreServedAtOnceOverTcp) {
  Fixture fixture(Sharing::kNothing);
  ManyConnectionsAreServedAtOnce(fixture);
}
TEST(ManyConnectionsAreServedAtOnceOverSharedMemory) {
  Fixture fixture(Sharing::kMemory);
  ManyConnectionsAreServedAtOnce(fixture);
}
TEST(WrongSecretIsUnauthenticatedOverTcp) {
  Fixture fixture(Sharing::kNothing);
  WrongSecretIsUnauthenticated(fixture);
}
TEST(WrongSecretIsUnauthenticatedOverSharedMemory) {
  Fixture fixture(Sharing::kMemory);
  WrongSecretIsUnauthenticated(fixture);
}
TEST(ReplyThatIsHeldBackComesFromAnotherThreadOverTcp) {
  Fixture fixture(Sharing::kNothing);
  ReplyThatIsHeldBackComesFromAnotherThread(fixture);
}
TEST(ReplyThatIsHeldBackComesFromAnotherThreadOverSharedMemory) {
  Fixture fixture(Sharing::kMemory);
  ReplyThatIsHeldBackComesFromAnotherThread(fixture);
}
TEST(ReplyToAClientThatLeftIsDroppedOverTcp) {
  Fixture fixture(Sharing::kNothing);
  ReplyToAClientThatLeftIsDropped(fixture);
}
TEST(ReplyToAClientThatLeftIsDroppedOverSharedMemory) {
  Fixture fixture(Sharing::kMemory);
  ReplyToAClientThatLeftIsDropped(fixture);
}
TEST(StopClosesConnectionsAndTheirCallersNoticeOverTcp) {
  Fixture fixture(Sharing::kNothing);
  StopClosesConnectionsAndTheirCallersNotice(fixture);
}
TEST(StopClosesConnectionsAndTheirCallersNoticeOverSharedMemory) {
  Fixture fixture(Sharing::kMemory);
  StopClosesConnectionsAndTheirCallersNotice(fixture);
}

// A socket that speaks to a listener of shared memory as a client would, but for its mistakes.
struct RawClient {
  explicit RawClient(const Fixture& fixture) {
    const SocketAddress to = AbstractAddress(fixture.listener->name()).value();
    CHECK_TRUE(connect(socket.fd(), reinterpret_cast<const sockaddr*>(&to.storage), to.bytes) == 0);
    const std::vector<std::byte> hello = EncodeHello(1, kSecret);
    Send(FrameType::kHello, static_cast<uint32_t>(hello.size()), hello, -1);
    std::array<std::byte, kHeaderBytes + ReplyRowsOffset(0)> reply;
    CHECK_TRUE(ReadInto(socket.fd(), reply).end == Transfer::End::kDone);
  }

  void Send(FrameType type, uint32_t body_bytes, std::span<const std::byte> body, int descriptor) {
    std::array<std::byte, kHeaderBytes> header;
    EncodeHeader({type, 1, body_bytes}, header.data());
    Outgoing outgoing;
    outgoing.Add(header);
    outgoing.Add(body);
    outgoing.Pass(descriptor);
    CHECK_TRUE(outgoing.Send(socket.fd()).end == Transfer::End::kDone);
  }

  bool IsClosedByTheOtherEnd() {
    std::byte next;
    return ReadInto(socket.fd(), {&next, 1}).end == Transfer::End::kClosed;
  }

  Socket socket{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
};

TEST(BodyThatIsNotInTheSharedMemoryClosesItsConnectionOnly) {
  const Fixture fixture(Sharing::kMemory);
  const auto other = std::move(fixture.connector()->Open(Soon())).value();
  const auto area = SharedArea::Create(4096).value();
  RawClient nothing_shared(fixture);
  nothing_shared.Send(FrameType::kPull, 5000, {}, -1);
  CHECK_TRUE(nothing_shared.IsClosedByTheOtherEnd());
  RawClient too_little(fixture);
  too_little.Send(FrameType::kPull, 5000, {}, area->descriptor());
  CHECK_TRUE(too_little.IsClosedByTheOtherEnd());
  CHECK_EQ(fixture.stats.malformed.load(), 2U);
  CHECK_TRUE(Exchange(*other, FrameType::kPull, Pattern(5000, 1), Soon()).ok());
}

TEST(MemoryThatCouldShrinkIsRefused) {
  const Fixture fixture(Sharing::kMemory);
  const Socket unsealed(memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  CHECK_TRUE(ftruncate(unsealed.fd(), 1 << 20) == 0);
  RawClient client(fixture);
  client.Send(FrameType::kPull, 5000, {}, unsealed.fd());
  CHECK_TRUE(client.IsClosedByTheOtherEnd());
  CHECK_EQ(fixture.stats.malformed.load(), 1U);
}

TEST(BodyWrittenIntoPlaceIsSentFromThereOverSharedMemory) {
  Fixture fixture(Sharing::kMemory);
  BodyWrittenIntoPlaceIsSentFromThere(fixture);
}

}  // namespace
}  // namespace embery

EMBERY_TEST_MAIN()
