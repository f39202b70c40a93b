// An echo server on Boost.Asio: one io_context on one thread. Whole frames (1 byte type, 3 bytes length,
// payload) are answered, all of one read with one write. Each connection has a steady_timer: a read only
// notes the time, and the timer, when it is due, waits for what is left. It prints its address and ends
// when its standard input is closed.
#include <boost/asio.hpp>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;
using clock_type = asio::steady_timer::clock_type;

constexpr std::size_t header = 4, payload_max = 64 << 10;
constexpr std::chrono::seconds idle_max{60};

class session : public std::enable_shared_from_this<session> {
public:
	explicit session(tcp::socket s) : socket_(std::move(s)), timer_(socket_.get_executor()), buffer_(16 << 10) {}

	void start() {
		error_code ignored;
		socket_.set_option(tcp::no_delay(true), ignored);
		last_ = clock_type::now();
		watch(last_ + idle_max);
		read();
	}

private:
	void watch(clock_type::time_point when) {
		timer_.expires_at(when);
		timer_.async_wait([self = shared_from_this()](error_code ec) {
			if (ec || !self->socket_.is_open())
				return;
			auto due = self->last_ + idle_max;
			if (due > clock_type::now())
				self->watch(due);
			else
				self->end();
		});
	}

	void read() {
		socket_.async_read_some(asio::buffer(buffer_.data() + have_, buffer_.size() - have_),
			[self = shared_from_this()](error_code ec, std::size_t n) {
				if (ec)
					return self->end();
				self->last_ = clock_type::now();
				self->have_ += n;
				self->answer();
			});
	}

	void answer() {
		std::size_t n = 0;
		while (have_ - n >= header) {
			const unsigned char *b = buffer_.data() + n;
			std::size_t size = header + (std::size_t(b[1]) << 16 | std::size_t(b[2]) << 8 | b[3]);
			if (size > header + payload_max)
				return end();
			if (size > buffer_.size())
				buffer_.resize(header + payload_max);
			if (have_ - n < size)
				break;
			n += size;
		}
		if (n == 0)
			return read();
		asio::async_write(socket_, asio::buffer(buffer_.data(), n),
			[self = shared_from_this(), n](error_code ec, std::size_t) {
				if (ec)
					return self->end();
				self->have_ -= n;
				std::memmove(self->buffer_.data(), self->buffer_.data() + n, self->have_);
				self->read();
			});
	}

	void end() {
		error_code ignored;
		socket_.close(ignored);
		timer_.cancel();
	}

	tcp::socket socket_;
	asio::steady_timer timer_;
	clock_type::time_point last_;
	std::vector<unsigned char> buffer_;
	std::size_t have_ = 0;
};

static void accept(tcp::acceptor &door) {
	door.async_accept([&door](error_code ec, tcp::socket s) {
		if (!ec)
			std::make_shared<session>(std::move(s))->start();
		accept(door);
	});
}

int main() {
	asio::io_context loop(BOOST_ASIO_CONCURRENCY_HINT_UNSAFE); // one thread: no locks
	tcp::acceptor door(loop, tcp::endpoint(asio::ip::address_v4::loopback(), 0));
	door.listen(4096);
	asio::posix::stream_descriptor in(loop, dup(0));
	char byte;
	in.async_read_some(asio::buffer(&byte, 1), [&loop](error_code, std::size_t) { loop.stop(); });
	std::printf("127.0.0.1:%d\n", door.local_endpoint().port());
	std::fflush(stdout);
	accept(door);
	loop.run();
	std::_Exit(0);
}
