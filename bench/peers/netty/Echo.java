import io.netty.bootstrap.ServerBootstrap;
import io.netty.buffer.ByteBuf;
import io.netty.channel.Channel;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelInboundHandlerAdapter;
import io.netty.channel.ChannelInitializer;
import io.netty.channel.ChannelOption;
import io.netty.channel.EventLoopGroup;
import io.netty.channel.nio.NioEventLoopGroup;
import io.netty.channel.socket.SocketChannel;
import io.netty.channel.socket.nio.NioServerSocketChannel;
import io.netty.handler.codec.ByteToMessageDecoder;
import io.netty.handler.timeout.IdleStateEvent;
import io.netty.handler.timeout.IdleStateHandler;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.util.List;

/**
 * An echo server on Netty: one event loop. Whole frames (1 byte type, 3 bytes length, payload) are
 * answered, all of one read with one write. Each connection has an IdleStateHandler. It prints its address
 * and ends when its standard input is closed. Before that it puts load on itself for as many milliseconds
 * as its argument says, so that what is measured has been compiled.
 */
public final class Echo {
    private static final int HEADER = 4;
    private static final int PAYLOAD_MAX = 64 << 10;
    private static final int IDLE_MAX = 60; // seconds

    /** Passes on all whole frames that are there, as one. */
    private static final class Frames extends ByteToMessageDecoder {
        @Override
        protected void decode(ChannelHandlerContext ctx, ByteBuf in, List<Object> out) {
            int from = in.readerIndex();
            int have = in.readableBytes();
            int n = 0;
            while (have - n >= HEADER) {
                int length = in.getUnsignedMedium(from + n + 1);
                if (length > PAYLOAD_MAX) {
                    ctx.close();
                    return;
                }
                if (have - n < HEADER + length) {
                    break;
                }
                n += HEADER + length;
            }
            if (n > 0) {
                out.add(in.readRetainedSlice(n));
            }
        }
    }

    private static final class Answer extends ChannelInboundHandlerAdapter {
        @Override
        public void channelRead(ChannelHandlerContext ctx, Object frames) {
            ctx.write(frames, ctx.voidPromise());
        }

        @Override
        public void channelReadComplete(ChannelHandlerContext ctx) {
            ctx.flush();
        }

        @Override
        public void userEventTriggered(ChannelHandlerContext ctx, Object event) {
            if (event instanceof IdleStateEvent) {
                ctx.close();
            }
        }

        @Override
        public void exceptionCaught(ChannelHandlerContext ctx, Throwable cause) {
            ctx.close();
        }
    }

    public static void main(String[] args) throws Exception {
        EventLoopGroup loop = new NioEventLoopGroup(1);
        Channel door = new ServerBootstrap()
                .group(loop, loop)
                .channel(NioServerSocketChannel.class)
                .option(ChannelOption.SO_BACKLOG, 4096)
                .childOption(ChannelOption.TCP_NODELAY, true)
                .childHandler(new ChannelInitializer<SocketChannel>() {
                    @Override
                    protected void initChannel(SocketChannel c) {
                        c.pipeline().addLast(new IdleStateHandler(IDLE_MAX, 0, 0), new Frames(), new Answer());
                    }
                })
                .bind("127.0.0.1", 0).sync().channel();
        int port = ((InetSocketAddress) door.localAddress()).getPort();
        warm(port, args.length > 0 ? Long.parseLong(args[0]) : 0);
        System.out.println("127.0.0.1:" + port);
        System.out.flush();
        while (System.in.read() >= 0) {
            // until it is closed
        }
        Runtime.getRuntime().halt(0);
    }

    /** Sends bursts of 1 and of 16 messages in turn. */
    private static void warm(int port, long millis) throws Exception {
        long end = System.nanoTime() + millis * 1_000_000;
        byte[] burst = new byte[16 * (HEADER + 64)];
        for (int at = 0; at < burst.length; at += HEADER + 64) {
            burst[at] = 1;
            burst[at + 3] = 64;
        }
        try (Socket s = new Socket("127.0.0.1", port)) {
            s.setTcpNoDelay(true);
            InputStream in = s.getInputStream();
            OutputStream out = s.getOutputStream();
            for (int n = HEADER + 64; System.nanoTime() < end; n = burst.length + HEADER + 64 - n) {
                out.write(burst, 0, n);
                in.readNBytes(n);
            }
        }
    }
}
