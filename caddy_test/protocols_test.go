package caddy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"encoding/pem"
	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
)

// TestEveryProtocolPassesInFrontAndBehind sends a body with trailers through
// each pair of protocols and wants body and trailers back.
func TestEveryProtocolPassesInFrontAndBehind(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	handler := guarded(p, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Trailer", "Announced")
		w.Header().Set("X-Protocol", r.Proto)
		w.Header().Set("X-Query", r.URL.RawQuery)
		w.WriteHeader(http.StatusAccepted)
		_, _ = w.Write(body)
		w.Header().Set("Announced", fmt.Sprintf("%q after %d bytes", r.Trailer.Get("X-Sum"), len(body)))
		w.Header().Set(http.TrailerPrefix+"Unannounced", "it came late")
	})
	plain, secure := serve(t, handler), serveTLS(t, handler)
	const verify = "tls_insecure_skip_verify"
	behind := []struct{ name, upstream, transport, protocol string }{
		{"HTTP/1.1", plain, "versions 1.1", "HTTP/1.1"},
		{"h2c", "h2c://" + plain, "", "HTTP/2.0"},
		{"HTTP/1.1 over TLS", "https://localhost:" + secure, verify + "\n versions 1.1", "HTTP/1.1"},
		{"HTTP/2", "https://localhost:" + secure, verify, "HTTP/2.0"},
		{"HTTP/3", "https://localhost:" + serveHTTP3(t, handler), verify + "\n versions 3", "HTTP/3.0"},
	}
	var routes strings.Builder
	for i, b := range behind {
		transport := ""
		if b.transport != "" {
			transport = "transport http {\n" + b.transport + "\n}"
		}
		fmt.Fprintf(&routes, "handle_path /%d/* {\nproxy %s {\n%s\n}\n}\n", i, b.upstream, transport)
	}
	_, ways := bothWaysTLS(t, p, routes.String())
	http3Sum := ""           // what of a request's trailer comes from HTTP/3 to a plain reverse_proxy: nothing in this version of Caddy
	for _, w := range ways { // the plain one first
		for front, c := range w.clients(t) {
			for i, b := range behind {
				t.Run(w.name+", "+front+" to "+b.name, func(t *testing.T) {
					text := strings.Repeat(front+b.name, 5000)
					req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, fmt.Sprintf("%s/%d/x?a=%%20b&c;d", c.base, i), io.MultiReader(strings.NewReader(text)))
					if err != nil {
						t.Fatal(err)
					}
					req.Trailer = http.Header{"X-Sum": {"sum-17"}}
					resp, body := c.do(t, req)
					if resp.StatusCode != http.StatusAccepted || body != text {
						t.Fatalf("answered %d and %d bytes of %d: %.100s", resp.StatusCode, len(body), len(text), body)
					}
					if resp.ProtoMajor != c.major || resp.Header.Get("X-Protocol") != b.protocol {
						t.Errorf("in front %s, behind %s", resp.Proto, resp.Header.Get("X-Protocol"))
					}
					if got := resp.Header.Get("X-Query"); got != "a=%20b&c;d" {
						t.Errorf("the query arrived as %s", got)
					}
					got, sum := resp.Trailer.Get("Announced"), "sum-17"
					if front == "HTTP/3" && w.name == "plain" {
						http3Sum, _, _ = strings.Cut(strings.TrimPrefix(got, `"`), `"`)
					}
					if front == "HTTP/3" {
						sum = http3Sum
					}
					if want := fmt.Sprintf("%q after %d bytes", sum, len(text)); got != want {
						t.Errorf("the announced trailer is %s, want %s", got, want)
					}
					if got := resp.Trailer.Get("Unannounced"); got != "it came late" {
						t.Errorf("the unannounced trailer is %q", got)
					}
				})
			}
		}
	}
}

// TestWebSocketsPass sends messages both ways, one of a mebibyte, and wants the
// code with which the upstream closes.
func TestWebSocketsPass(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	handler := guarded(p, func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"echo"}})
		if err != nil {
			t.Error(err)
			return
		}
		conn.SetReadLimit(1 << 22)
		for {
			kind, message, err := conn.Read(r.Context())
			if err != nil {
				return
			}
			if string(message) == "bye" {
				conn.Close(4017, "as you wish")
				return
			}
			if err := conn.Write(r.Context(), kind, append([]byte("echo of "), message...)); err != nil {
				return
			}
		}
	})
	_, ways := bothWaysTLS(t, p, fmt.Sprintf(`handle /plain {
		proxy %s {
		}
	}
	handle /tls {
		proxy https://localhost:%s {
			transport http {
				tls_insecure_skip_verify
			}
		}
	}`, serve(t, handler), serveTLS(t, handler)))
	for _, w := range ways {
		for _, url := range []string{w.http + "/plain", w.http + "/tls", w.https + "/plain", w.https + "/tls"} {
			t.Run(w.name+url[strings.LastIndexByte(url, '/'):]+" from "+url[:5], func(t *testing.T) {
				ctx := within(t, time.Minute)
				client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
				conn, resp, err := websocket.Dial(ctx, url, &websocket.DialOptions{Subprotocols: []string{"echo"}, HTTPClient: client})
				if err != nil {
					t.Fatal(err)
				}
				defer conn.CloseNow()
				if got := resp.Header.Get("Sec-Websocket-Protocol"); got != "echo" {
					t.Errorf("the subprotocol is %q", got)
				}
				conn.SetReadLimit(1 << 22)
				for _, message := range []string{"one", strings.Repeat("0123456789abcdef", 1<<16), "", "two"} {
					if err := conn.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
						t.Fatal(err)
					}
					kind, got, err := conn.Read(ctx)
					if err != nil || kind != websocket.MessageText || string(got) != "echo of "+message {
						t.Fatalf("%d bytes came back as %v of %d bytes, %v", len(message), kind, len(got), err)
					}
				}
				if err := conn.Write(ctx, websocket.MessageText, []byte("bye")); err != nil {
					t.Fatal(err)
				}
				if _, _, err := conn.Read(ctx); websocket.CloseStatus(err) != 4017 {
					t.Errorf("the connection was closed with %v", err)
				}
			})
		}
	}
}

// TestServerSentEventsArriveOneByOne has a server that sends the next event
// only when the caller has seen the one before.
func TestServerSentEventsArriveOneByOne(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	var seen sync.Map // path to a channel of what the caller has seen
	upstream := serve(t, guarded(p, func(w http.ResponseWriter, r *http.Request) {
		acknowledged, _ := seen.Load(r.URL.Path)
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 5 {
			fmt.Fprintf(w, "data: event %d\n\n", i)
			w.(http.Flusher).Flush()
			select {
			case <-acknowledged.(chan int):
			case <-r.Context().Done():
				t.Errorf("event %d was not seen", i)
				return
			}
		}
	}))
	_, ways := bothWaysTLS(t, p, "proxy "+upstream+" {\n}")
	for _, w := range ways {
		for front, c := range w.clients(t) {
			t.Run(w.name+", "+front, func(t *testing.T) {
				path := "/" + w.name + strings.ReplaceAll(front, "/", "")
				acknowledged := make(chan int)
				seen.Store(path, acknowledged)
				req, err := http.NewRequestWithContext(within(t, 30*time.Second), http.MethodGet, c.base+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				lines := bufio.NewReader(resp.Body)
				for i := range 5 {
					event, err := lines.ReadString('\n')
					if want := fmt.Sprintf("data: event %d\n", i); event != want || err != nil {
						t.Fatalf("%q came, %v; want %q", event, err, want)
					}
					_, _ = lines.ReadString('\n')
					acknowledged <- i
				}
				if rest, err := io.ReadAll(lines); len(rest) != 0 || err != nil {
					t.Errorf("%q came at the end, %v", rest, err)
				}
			})
		}
	}
}

// TestAGibibyteEachWayNeedsNoMemory wants Caddy's heap to stay what it was
// when as much passes as would fill it dozens of times.
func TestAGibibyteEachWayNeedsNoMemory(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	upstream := serve(t, guarded(p, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			n, sum, err := checksum(r.Body)
			fmt.Fprintf(w, "%d %08x %v", n, sum, err)
			return
		}
		w.Header().Set("Content-Length", r.URL.Query().Get("size"))
		size, _ := strconv.ParseInt(r.URL.Query().Get("size"), 10, 64)
		_, _ = io.Copy(w, newStream(size))
	}))
	c, ways := bothWays(t, p, "proxy "+upstream+" {\n}")
	heap := func() int {
		var vars struct {
			Memstats struct{ HeapSys int } // what it has taken from the system, and never gives back
		}
		if err := json.Unmarshal([]byte(c.AdminGet("/debug/vars")), &vars); err != nil || vars.Memstats.HeapSys == 0 {
			t.Fatalf("the admin API does not tell the size of the heap: %v", err)
		}
		return vars.Memstats.HeapSys
	}
	transfer := func(w way, size int64) (grown int) {
		client, before := w.clients(t)["HTTP/1.1"], heap()
		_, want, _ := checksum(newStream(size))

		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, client.base, newStream(size))
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = size
		if resp, body := client.do(t, req); body != fmt.Sprintf("%d %08x <nil>", size, want) {
			t.Errorf("%s: the upload was answered %d %s, want %d %08x", w.name, resp.StatusCode, body, size, want)
		}

		resp, err := client.Get(client.base + "?size=" + strconv.FormatInt(size, 10))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		n, sum, err := checksum(resp.Body)
		if n != size || sum != want || err != nil || resp.ContentLength != size {
			t.Errorf("%s: the download has %d bytes, %08x, %v; want %d, %08x", w.name, n, sum, err, size, want)
		}
		return heap() - before
	}
	plain, injected := transfer(ways[0], 1<<27), transfer(ways[1], 1<<30)
	if injected > max(plain, 0)+64<<20 {
		t.Errorf("the heap grew by %d bytes, and by %d where an eighth of it passed a plain reverse_proxy", injected, plain)
	}
}

// echoService is a gRPC service without generated code: what comes in goes
// out, with the words of the first metadata entry "word".
var echoService = grpc.ServiceDesc{
	ServiceName: "test.Echo",
	HandlerType: (*any)(nil),
	Streams: []grpc.StreamDesc{{
		StreamName: "Talk", ServerStreams: true, ClientStreams: true,
		Handler: func(_ any, stream grpc.ServerStream) error {
			md, _ := metadata.FromIncomingContext(stream.Context())
			if err := stream.SendHeader(metadata.Pairs("word-back", strings.Join(md["word"], ","))); err != nil {
				return err
			}
			for n := 0; ; n++ {
				message := new(wrapperspb.StringValue)
				if err := stream.RecvMsg(message); err == io.EOF {
					stream.SetTrailer(metadata.Pairs("count", strconv.Itoa(n)))
					return status.Error(codes.OutOfRange, "that was all")
				} else if err != nil {
					return err
				}
				if err := stream.SendMsg(wrapperspb.String("echo of " + message.Value)); err != nil {
					return err
				}
			}
		},
	}},
}

// TestGRPCPasses makes a unary call, one that fails, and a conversation in
// which each message is answered before the next.
func TestGRPCPasses(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	check := func(ctx context.Context) error {
		if md, _ := metadata.FromIncomingContext(ctx); !authorized(p, md["authorization"]) {
			return status.Errorf(codes.Unauthenticated, "authorization is %q", md["authorization"])
		}
		return nil
	}
	server := grpc.NewServer(
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if err := check(ctx); err != nil {
				return nil, err
			}
			return next(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := check(stream.Context()); err != nil {
				return err
			}
			return next(srv, stream)
		}))
	server.RegisterService(&echoService, struct{}{})
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(listener)
	t.Cleanup(server.Stop)

	_, ways := bothWaysTLS(t, p, "proxy h2c://"+listener.Addr().String()+" {\n}")
	for _, w := range ways {
		for url, creds := range map[string]credentials.TransportCredentials{
			w.http:  insecure.NewCredentials(),
			w.https: credentials.NewTLS(&tls.Config{InsecureSkipVerify: true}),
		} {
			scheme, target, _ := strings.Cut(url, "://")
			t.Run(w.name+" from "+scheme, func(t *testing.T) {
				conn, err := grpc.NewClient("passthrough:///"+target, grpc.WithTransportCredentials(creds), grpc.WithNoProxy())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				ctx := within(t, time.Minute)

				answer, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, new(grpc_health_v1.HealthCheckRequest))
				if err != nil || answer.Status != grpc_health_v1.HealthCheckResponse_SERVING {
					t.Fatalf("the health check says %v, %v", answer, err)
				}
				_, err = grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "nobody"})
				if status.Code(err) != codes.NotFound || status.Convert(err).Message() != "unknown service" {
					t.Errorf("an unknown service is %v", err)
				}

				stream, err := conn.NewStream(metadata.AppendToOutgoingContext(ctx, "word", "hello"), &echoService.Streams[0], "/test.Echo/Talk")
				if err != nil {
					t.Fatal(err)
				}
				if header, err := stream.Header(); err != nil || strings.Join(header["word-back"], ",") != "hello" {
					t.Fatalf("the header is %v, %v", header, err)
				}
				for i := range 10 {
					text := strings.Repeat(strconv.Itoa(i), 20000)
					if err := stream.SendMsg(wrapperspb.String(text)); err != nil {
						t.Fatal(err)
					}
					back := new(wrapperspb.StringValue)
					if err := stream.RecvMsg(back); err != nil || back.Value != "echo of "+text {
						t.Fatalf("message %d came back as %.40q, %v", i, back.Value, err)
					}
				}
				if err := stream.CloseSend(); err != nil {
					t.Fatal(err)
				}
				err = stream.RecvMsg(new(wrapperspb.StringValue))
				if status.Code(err) != codes.OutOfRange || status.Convert(err).Message() != "that was all" {
					t.Errorf("the conversation ended with %v", err)
				}
				if got := strings.Join(stream.Trailer()["count"], ","); got != "10" {
					t.Errorf("the trailer counts %q messages", got)
				}
			})
		}
	}
}

// TestExpectContinueReachesTheUpstream has a caller that sends its body only
// when it is asked to go on.
func TestExpectContinueReachesTheUpstream(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	upstream := serve(t, guarded(p, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %v, %q", body, err, r.Header["Expect"])
	}))
	_, ways := bothWays(t, p, fmt.Sprintf(`handle /waits {
		proxy %s {
			transport http {
				expect_continue_timeout 1m
			}
		}
	}
	handle {
		proxy %[1]s {
		}
	}`, upstream))
	for _, w := range ways {
		for _, path := range []string{"/waits", "/sends"} {
			conn := dial(t, w.http)
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 14\r\n\r\n", path)
			reader := bufio.NewReader(conn)
			if line, err := reader.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
				t.Fatalf("%s, %s: answered %q, %v", w.name, path, line, err)
			}
			fmt.Fprint(conn, "the whole body")
			// Caddy may say twice that it goes on.
			rest := io.MultiReader(strings.NewReader("HTTP/1.1 100 Continue\r\n"), reader)
			resp, err := readFinal(rest)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			if want := `the whole body <nil>, ["100-continue"]`; string(body) != want || err != nil {
				t.Errorf("%s, %s: answered %s %q %v, want %q", w.name, path, resp.Status, body, err, want)
			}
		}
	}
}

// TestUpstreamsOverTLSSeeTheirOwnName compares what Caddy's own transport says
// to a TLS upstream with what ours says.
func TestUpstreamsOverTLSSeeTheirOwnName(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	server := httptest.NewUnstartedServer(guarded(p, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "SNI %q, Host %q, X-Forwarded-Host %q", r.TLS.ServerName, r.Host, r.Header.Get("X-Forwarded-Host"))
	}))
	server.StartTLS()
	closeAtEnd(t, server)
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	// The certificate of httptest is for example.com and 127.0.0.1.
	authority := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	verified := "tls_trust_pool file {\n pem_file " + authority + "\n}\n"
	cases := []struct{ upstream, options, want string }{
		{"127.0.0.1", "transport http {\n" + verified + "}", `SNI "", Host "127.0.0.1:PORT", X-Forwarded-Host "caller.example"`},
		{"localhost", "transport http {\n" + verified + "tls_server_name example.com\n}", `SNI "example.com", Host "localhost:PORT", X-Forwarded-Host "caller.example"`},
		{"localhost", "transport http {\ntls_insecure_skip_verify\n}", `SNI "localhost", Host "localhost:PORT", X-Forwarded-Host "caller.example"`},
		{"localhost", "header_up Host api.example.net\n transport http {\ntls_insecure_skip_verify\n}", `SNI "localhost", Host "api.example.net", X-Forwarded-Host "caller.example"`},
		{"localhost", "header_up Host {host}\n transport http {\ntls_insecure_skip_verify\n}", `SNI "localhost", Host "caller.example", X-Forwarded-Host "caller.example"`},
	}
	var routes strings.Builder
	for i, c := range cases {
		fmt.Fprintf(&routes, "handle /%d {\nproxy https://%s:%s {\n%s\n}\n}\n", i, c.upstream, port, c.options)
	}
	fmt.Fprintf(&routes, "handle /unknown {\nproxy https://127.0.0.1:%s {\n}\n}", port)
	_, ways := bothWays(t, p, routes.String())
	ask := func(w way, path string) (int, string) {
		req, err := http.NewRequest(http.MethodGet, w.http+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "caller.example"
		resp, body := harness.Do(t, req)
		return resp.StatusCode, body
	}
	for _, w := range ways {
		for i, c := range cases {
			if status, got := ask(w, fmt.Sprintf("/%d", i)); status != http.StatusOK || got != strings.ReplaceAll(c.want, "PORT", port) {
				t.Errorf("%s, case %d: %d %s, want %s", w.name, i, status, got, c.want)
			}
		}
		if status, _ := ask(w, "/unknown"); status != http.StatusBadGateway {
			t.Errorf("%s: a certificate that nobody trusts was answered %d", w.name, status)
		}
	}
}

func TestUpstreamsOnUnixSocketsAreServed(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	path := socket(t)
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, guarded(p, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s", r.Proto, r.Host, r.URL)
	}), listener)
	_, ways := bothWays(t, p, fmt.Sprintf("handle /one {\nproxy unix/%s {\n}\n}\nhandle /two {\nproxy unix+h2c/%[1]s {\n}\n}", path))
	for _, w := range ways {
		host := strings.TrimPrefix(w.http, "http://")
		for path, want := range map[string]string{"/one?a": "HTTP/1.1 " + host + " /one?a", "/two": "HTTP/2.0 " + host + " /two"} {
			if resp, body := harness.Get(t, w.http+path); resp.StatusCode != http.StatusOK || body != want {
				t.Errorf("%s: %s was answered %d %q, want %q", w.name, path, resp.StatusCode, body, want)
			}
		}
	}
}

// TestActiveHealthChecksCarryTheToken has an upstream that is healthy only to
// those who have one, and later to nobody. It is reached over TCP and over a
// unix socket, and its health check is redirected.
func TestActiveHealthChecksCarryTheToken(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	var down atomic.Bool
	handler := guarded(p, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/health":
			http.Redirect(w, r, "/health/", http.StatusFound)
		case r.URL.Path == "/health/" && down.Load():
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	path := socket(t)
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, handler, listener)
	const check = `{
			health_uri /health
			health_interval 100ms
			health_follow_redirects
		}
	}
	`
	text, url := caddyfile(t, crmSource(p, ""), "handle /tcp {\n inject_token crm "+serve(t, handler)+" "+check+"handle /unix {\n inject_token crm unix/"+path+" "+check)
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	for _, want := range []int{http.StatusOK, http.StatusServiceUnavailable, http.StatusOK} {
		down.Store(want != http.StatusOK)
		for _, path := range []string{"/tcp", "/unix"} {
			c.Eventually(20*time.Second, fmt.Sprintf("callers of %s get %d", path, want), func() bool {
				resp, _ := harness.Get(t, url+path)
				return resp.StatusCode == want
			})
		}
	}
	harness.Eventually(t, 20*time.Second, "the log says that the hosts are up again", func() bool { return c.LogCount("http.handlers.reverse_proxy.health_checker.active", "host is up") >= 2 })
}

// TestHealthChecksTakeTheTokenNowhereElse has an upstream whose health check
// is redirected to another host, to another port and out of TLS. The address
// of the upstream takes plain HTTP as well as TLS, as anybody could who reads
// along.
func TestHealthChecksTakeTheTokenNowhereElse(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	var mu sync.Mutex // guards seen
	seen := make(map[string][]string)
	handler := func(protocol string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			what := protocol + r.URL.Path
			if target := r.URL.Query().Get("to"); target != "" {
				http.Redirect(w, r, target, http.StatusTemporaryRedirect)
			} else {
				what += " elsewhere"
			}
			seen[what] = append(seen[what], r.Header.Get("Authorization")+r.URL.Query().Get("key"))
		}
	}
	listener := newMixedListener(t)
	serveOn(t, handler("http"), listener.plain)
	secure := httptest.NewUnstartedServer(handler("https"))
	secure.Listener.Close()
	secure.Listener = listener.secure
	secure.StartTLS()
	closeAtEnd(t, secure)
	other := serve(t, handler("http"))

	own := listener.address
	targets := map[string]string{
		"/host": "http://" + other + "/host",
		"/tls":  "http://" + own + "/tls",
		"/same": "https://" + own + "/same",
	}
	var routes strings.Builder
	for path, target := range targets {
		fmt.Fprintf(&routes, `handle %s {
			inject_token crm https://%s {
				header Authorization
				query key
				health_uri %[1]s?to=%[3]s
				health_interval 100ms
				health_follow_redirects
				transport http {
					tls_insecure_skip_verify
				}
			}
		}
		`, path, own, url.QueryEscape(target))
	}
	text, _ := caddyfile(t, crmSource(p, ""), routes.String())
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	count := func(what string) []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(seen[what])
	}
	token := ""
	for path := range targets {
		c.Eventually(20*time.Second, "health checks with a token go to "+path, func() bool {
			all := count("https" + path)
			if len(all) > 0 && all[len(all)-1] != "" {
				token = p.IssuedTokens()[0]
				return all[len(all)-1] == "Bearer "+token+token
			}
			return false
		})
	}
	for what, want := range map[string]string{
		"/host elsewhere": "",
		"/tls elsewhere":  "",
		"/same elsewhere": "Bearer " + token + token,
	} {
		var last []string
		c.Eventually(20*time.Second, "redirects are followed to "+what, func() bool {
			last = append(count("http"+what), count("https"+what)...)
			return len(last) >= 5
		})
		for _, got := range last[len(last)-2:] {
			if got != want {
				t.Errorf("the check that was redirected to %s came with %q, want %q", what, got, want)
			}
		}
	}
}

// TestRequestsAreTriedOnTheNextUpstreamWithTheToken has an upstream that takes
// no connections, one that breaks them, and one that is well.
func TestRequestsAreTriedOnTheNextUpstreamWithTheToken(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	var hits atomic.Int32 // at the one that breaks
	broken := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		hits.Add(1)
		panic(http.ErrAbortHandler)
	}))
	healthy := serve(t, guarded(p, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %v", r.Method, body, err)
	}))
	_, ways := bothWays(t, p, fmt.Sprintf(`handle /closed {
		proxy %[1]s %[3]s {
			lb_policy round_robin
			lb_retries 1
		}
	}
	handle /broken {
		proxy %[2]s %[3]s {
			lb_policy round_robin
			lb_retries 1
		}
	}
	handle /none {
		proxy %[1]s {
			lb_retries 1
		}
	}`, "127.0.0.1:"+itoa(harness.Port(t)), broken, healthy))
	for _, w := range ways {
		c, before := w.clients(t)["HTTP/1.1"], hits.Load()
		for range 4 { // half of which begin at the wrong one
			for _, tried := range []struct {
				method, path, body string
				status             int
				want               string
			}{
				{http.MethodGet, "/closed", "", http.StatusOK, "GET  <nil>"},
				{http.MethodGet, "/broken", "", http.StatusOK, "GET  <nil>"},
				{http.MethodGet, "/none", "", http.StatusBadGateway, ""},
			} {
				resp, body := c.send(t, tried.method, tried.path, strings.NewReader(tried.body), nil)
				if resp.StatusCode != tried.status || body != tried.want {
					t.Errorf("%s: %s %s was answered %d %q, want %d %q", w.name, tried.method, tried.path, resp.StatusCode, body, tried.status, tried.want)
				}
			}
			for range 2 { // an odd number of requests would always begin at the same one
				resp, body := c.send(t, http.MethodPost, "/closed", strings.NewReader("a body"), nil)
				if resp.StatusCode != http.StatusOK || body != "POST a body <nil>" {
					t.Errorf("%s: a body was answered %d %q", w.name, resp.StatusCode, body)
				}
			}
		}
		if hits.Load() == before {
			t.Errorf("%s: no request came to the upstream that breaks them", w.name)
		}
	}
}

func TestHandleResponseShapesAnswers(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	upstream := serve(t, guarded(p, func(w http.ResponseWriter, r *http.Request) {
		status, _ := strconv.Atoi(r.URL.Query().Get("status"))
		w.Header().Set("X-Upstream", "yes")
		w.WriteHeader(status)
		fmt.Fprint(w, "of the upstream")
	}))
	_, ways := bothWays(t, p, "proxy "+upstream+` {
		@error status 500 503
		handle_response @error {
			header X-Shaped yes
			respond "it said {rp.status_code}, {rp.header.X-Upstream}" 502
		}
		@gone status 410
		replace_status @gone 404
		@copied status 203
		handle_response @copied {
			header X-Shaped copied
			copy_response
		}
		header_down -X-Upstream
	}`)
	for _, w := range ways {
		for status, want := range map[int]string{
			500: `502 "yes" "it said 500, yes"`,
			410: `404 "" "of the upstream"`,
			203: `203 "copied" "of the upstream"`,
			200: `200 "" "of the upstream"`,
		} {
			resp, body := harness.Get(t, w.http+"?status="+itoa(status))
			if got := fmt.Sprintf("%d %q %q", resp.StatusCode, resp.Header.Get("X-Shaped"), body); got != want {
				t.Errorf("%s: %d became %s, want %s", w.name, status, got, want)
			}
		}
	}
}

func TestDynamicUpstreamsAreServed(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	upstream := serve(t, guarded(p, func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello %s", r.URL) }))
	_, port, _ := net.SplitHostPort(upstream)
	secure := serveTLS(t, guarded(p, func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello %s", r.URL) }))
	routes := fmt.Sprintf(`handle /a {
		proxy {
			dynamic a localhost %[1]s {
				versions ipv4
			}
		}
	}
	handle /multi {
		proxy {
			dynamic multi {
				a localhost %[1]s {
					versions ipv4
				}
				a localhost %[1]s {
					versions ipv4
				}
			}
			lb_retries 1
		}
	}
	handle /tls {
		proxy {
			dynamic a localhost %[2]s {
				versions ipv4
			}
			transport http {
				tls_insecure_skip_verify
			}
		}
	}`, port, secure)
	_, ways := bothWays(t, p, routes)
	for _, w := range ways {
		for _, path := range []string{"/a?x", "/multi", "/tls"} {
			if resp, body := harness.Get(t, w.http+path); resp.StatusCode != http.StatusOK || body != "hello "+path {
				t.Errorf("%s: %s was answered %d %q", w.name, path, resp.StatusCode, body)
			}
		}
	}
}
