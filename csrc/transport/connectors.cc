#include "transport/connectors.h"

#include <netinet/tcp.h>

#include <cerrno>
#include <utility>
#include <vector>

#include "transport/socket.h"
#include "transport/socket_connection.h"
#include "wire/body.h"
#include "wire/messages.h"

namespace embery {
namespace {

// What TCP and shared memory have in common: a socket is connected, and shows the secret.
class SocketConnector : public Connector {
 public:
  SocketConnector(std::string name, uint64_t client, const std::string& secret, Sharing sharing)
      : name_(std::move(name)), hello_(EncodeHello(client, secret)), sharing_(sharing) {}

  const std::string& name() const override { return name_; }

  Result<std::unique_ptr<Connection>> Open(Deadline deadline) override {
    const Result<std::vector<SocketAddress>> addresses = Addresses();
    if (!addresses.ok()) return Status::Unavailable(name_ + ": " + addresses.status().message());
    Status failure = Status::Unavailable(name_ + " has no address");
    for (const SocketAddress& to : addresses.value()) {
      Result<Socket> socket = ConnectTo(to, deadline);
      if (!socket.ok()) {
        failure = socket.status();
        continue;
      }
      auto connection = MakeSocketConnection(std::move(socket).value(), name_, pool_, sharing_);
      EMBERY_RETURN_IF_ERROR(Greet(*connection, hello_, name_, deadline));
      return connection;
    }
    return failure;
  }

 protected:
  virtual Result<std::vector<SocketAddress>> Addresses() const = 0;
  // Before it is connected.
  virtual Status Prepare(const Socket& socket) const = 0;

 private:
  Result<Socket> ConnectTo(const SocketAddress& to, Deadline deadline) const {
    Socket made(socket(to.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!made) return Status::Unavailable(name_ + ": no socket (" + ErrorText(errno) + ")");
    EMBERY_RETURN_IF_ERROR(Prepare(made));
    if (connect(made.fd(), reinterpret_cast<const sockaddr*>(&to.storage), to.bytes) != 0 &&
        errno != EINPROGRESS) {
      return Status::Unavailable(name_ + " cannot be reached (" + ErrorText(errno) + ")");
    }
    const pollfd awaited{made.fd(), POLLOUT, 0};
    if (!WaitForAny({&awaited, 1}, deadline)) return NotLetIn(name_);
    int error = 0;
    socklen_t bytes = sizeof(error);
    getsockopt(made.fd(), SOL_SOCKET, SO_ERROR, &error, &bytes);
    if (error == 0) return made;
    return Status::Unavailable(name_ + " cannot be reached (" + ErrorText(error) + ")");
  }

  const std::string name_;
  const std::vector<std::byte> hello_;
  const Sharing sharing_;
  const std::shared_ptr<BodyPool> pool_ = std::make_shared<BodyPool>();
};

class TcpConnector final : public SocketConnector {
 public:
  TcpConnector(TcpAddress address, uint64_t client, const std::string& secret)
      : SocketConnector("server " + std::to_string(address.server) + " at " + address.host + ":" +
                            std::to_string(address.port),
                        client, secret, Sharing::kNothing),
        address_(std::move(address)) {}

 private:
  Result<std::vector<SocketAddress>> Addresses() const override {
    return Resolve(address_.host, address_.port);
  }

  Status Prepare(const Socket& socket) const override {
    const int on = 1;
    setsockopt(socket.fd(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (address_.bind.empty()) return Status::Ok();
    const Result<std::vector<SocketAddress>> local = Resolve(address_.bind, 0);
    if (!local.ok()) return local.status();
    const SocketAddress& from = local.value().front();
    if (bind(socket.fd(), reinterpret_cast<const sockaddr*>(&from.storage), from.bytes) == 0) {
      return Status::Ok();
    }
    return Status::Unavailable("cannot connect from the local address " + address_.bind + " (" +
                               ErrorText(errno) + ")");
  }

  const TcpAddress address_;
};

class ShmConnector final : public SocketConnector {
 public:
  ShmConnector(const ShmAddress& address, uint64_t client, const std::string& secret)
      : SocketConnector("server " + std::to_string(address.server) + " in shared memory", client,
                        secret, Sharing::kMemory),
        socket_(address.socket) {}

 private:
  Result<std::vector<SocketAddress>> Addresses() const override {
    const Result<SocketAddress> address = AbstractAddress(socket_);
    if (!address.ok()) return address.status();
    return std::vector<SocketAddress>{address.value()};
  }
  Status Prepare(const Socket&) const override { return Status::Ok(); }

  const std::string socket_;
};

}  // namespace

std::unique_ptr<Connector> MakeTcpConnector(const TcpAddress& address, uint64_t client,
                                            const std::string& secret) {
  return std::make_unique<TcpConnector>(address, client, secret);
}

std::unique_ptr<Connector> MakeShmConnector(const ShmAddress& address, uint64_t client,
                                            const std::string& secret) {
  return std::make_unique<ShmConnector>(address, client, secret);
}

}  // namespace embery
