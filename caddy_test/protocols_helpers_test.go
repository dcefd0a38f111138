package caddy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// plainToken is what Caddy's own transport is told to send.
const plainToken = "plain-0123456789"

// way is a site before an upstream, at two addresses: http for HTTP/1.1 and
// h2c, https for HTTP/1.1, HTTP/2 and HTTP/3.
type way struct {
	name        string
	http, https string
}

var proxyDirective = regexp.MustCompile(`(?m)^\s*proxy (.*)\{$`)

// bothWays runs Caddy with two sites before the same upstreams: one has
// inject_token, and the other reverse_proxy with a fixed token. What a test
// demands of the one it demands of the other. The routes of a site are a
// pattern in which `proxy UPSTREAM… {` begins either.
func bothWays(t *testing.T, p *provider.Provider, routes string) (*harness.Caddy, []way) {
	t.Helper()
	return startBothWays(t, p, routes, false)
}

// bothWaysTLS is bothWays where the sites have the address https as well.
func bothWaysTLS(t *testing.T, p *provider.Provider, routes string) (*harness.Caddy, []way) {
	t.Helper()
	c, ways := startBothWays(t, p, routes, true)
	for _, w := range ways {
		c.Eventually(time.Minute, "there is a certificate", func() bool {
			conn, err := tls.Dial("tcp", strings.TrimPrefix(w.https, "https://"), &tls.Config{InsecureSkipVerify: true})
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
	}
	return c, ways
}

func startBothWays(t *testing.T, p *provider.Provider, routes string, secure bool) (*harness.Caddy, []way) {
	t.Helper()
	var sites strings.Builder
	var ways []way
	for _, form := range [][2]string{
		{"plain", "reverse_proxy ${1}{\n header_up Authorization \"Bearer " + plainToken + "\""},
		{"injected", "inject_token crm ${1}{"},
	} {
		w := way{name: form[0], http: "http://127.0.0.1:" + itoa(harness.Port(t))}
		addresses := strings.Replace(w.http, "127.0.0.1", "", 1) // whatever Host a caller sends
		if secure {
			w.https = "https://localhost:" + itoa(harness.Port(t))
			addresses += ", " + w.https
		}
		ways = append(ways, w)
		fmt.Fprintf(&sites, "%s {\n bind 127.0.0.1\n %s\n}\n", addresses, proxyDirective.ReplaceAllString(routes, form[1]))
	}
	c := harness.Start(t, fmt.Sprintf(`{
	{{globals}}
	servers {
		protocols h1 h2 h2c h3
	}
	token_sources {
		%s
	}
}
%s`, crmSource(p, ""), sites.String()), withSecret(provider.ClientSecret))
	return c, ways
}

// client speaks one protocol to a site.
type client struct {
	*http.Client
	base  string
	major int
}

// clients returns a client for each protocol in front of the site.
func (w way) clients(t *testing.T) map[string]client {
	t.Helper()
	insecure := &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"}
	only := func(set func(*http.Protocols)) *http.Transport {
		transport := &http.Transport{Protocols: new(http.Protocols), TLSClientConfig: insecure.Clone(), DisableCompression: true, ExpectContinueTimeout: time.Minute}
		set(transport.Protocols)
		t.Cleanup(transport.CloseIdleConnections)
		return transport
	}
	quic := &http3.Transport{TLSClientConfig: insecure.Clone(), DisableCompression: true}
	t.Cleanup(func() { quic.Close() })
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	of := func(rt http.RoundTripper, base string, major int) client {
		return client{&http.Client{Transport: rt, CheckRedirect: stay, Timeout: 2 * time.Minute}, base, major}
	}
	clients := map[string]client{
		"HTTP/1.1": of(only(func(p *http.Protocols) { p.SetHTTP1(true) }), w.http, 1),
		"h2c":      of(only(func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }), w.http, 2),
	}
	if w.https != "" {
		clients["HTTP/2"] = of(only(func(p *http.Protocols) { p.SetHTTP2(true) }), w.https, 2)
		clients["HTTP/3"] = of(quic, w.https, 3)
	}
	return clients
}

// send sends a request and returns the answer and its body.
func (c client) send(t *testing.T, method, path string, body io.Reader, header http.Header) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, c.base+path, body)
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		req.Header = header
	}
	return c.do(t, req)
}

func (c client) do(t *testing.T, req *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(text)
}

// authorized says whether there is one Authorization, with a token that the
// provider has issued or with the plain one.
func authorized(p *provider.Provider, values []string) bool {
	if len(values) != 1 {
		return false
	}
	token, isBearer := strings.CutPrefix(values[0], "Bearer ")
	return isBearer && (token == plainToken || slices.Contains(p.IssuedTokens(), token))
}

// guarded is a handler behind which only requests with a token come.
func guarded(p *provider.Provider, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !authorized(p, r.Header["Authorization"]) {
			http.Error(w, fmt.Sprintf("Authorization is %q", r.Header["Authorization"]), http.StatusUnauthorized)
			return
		}
		next(w, r)
	}
}

// serve serves plain HTTP/1.1 and h2c on loopback until the test ends, and
// returns HOST:PORT.
func serve(t *testing.T, handler http.Handler) string {
	t.Helper()
	return serveOn(t, handler, nil)
}

// serveOn is serve on a listener of the test's own.
func serveOn(t *testing.T, handler http.Handler, listener net.Listener) string {
	t.Helper()
	s := httptest.NewUnstartedServer(handler)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	if listener != nil {
		s.Listener.Close()
		s.Listener = listener
	}
	s.Start()
	closeAtEnd(t, s)
	return s.Listener.Addr().String()
}

// serveTLS serves HTTP/1.1 and HTTP/2 over TLS on loopback until the test
// ends, and returns the port.
func serveTLS(t *testing.T, handler http.Handler) string {
	t.Helper()
	s := httptest.NewUnstartedServer(handler)
	s.EnableHTTP2 = true
	s.StartTLS()
	closeAtEnd(t, s)
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	return port
}

func closeAtEnd(t *testing.T, s *httptest.Server) {
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
}

// socket returns the path of a unix socket, short enough for every system.
func socket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ic")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// within returns a context that ends after a time, or with the test.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// serveHTTP3 serves HTTP/3 on loopback until the test ends, and returns the
// port.
func serveHTTP3(t *testing.T, handler http.Handler) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	certificate := httptest.NewUnstartedServer(nil)
	certificate.StartTLS()
	certificate.Close()
	s := &http3.Server{Handler: handler, TLSConfig: http3.ConfigureTLSConfig(&tls.Config{Certificates: certificate.TLS.Certificates})}
	go s.Serve(conn)
	t.Cleanup(func() {
		s.Close()
		conn.Close()
	})
	return itoa(conn.LocalAddr().(*net.UDPAddr).Port)
}

// stream is that many bytes, of which no two blocks are the same.
type stream struct {
	block [1 << 16]byte
	left  int64
	rest  []byte // of the block
}

func newStream(size int64) io.Reader {
	s := &stream{left: size}
	for i := range s.block {
		s.block[i] = byte(i * 7)
	}
	return s
}

func (s *stream) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		if s.left == 0 {
			return 0, io.EOF
		}
		binary.BigEndian.PutUint64(s.block[:], uint64(s.left))
		s.rest = s.block[:min(s.left, int64(len(s.block)))]
		s.left -= int64(len(s.rest))
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// checksum reads a stream to its end.
func checksum(r io.Reader) (n int64, sum uint32, err error) {
	crc := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	n, err = io.CopyBuffer(struct{ io.Writer }{crc}, struct{ io.Reader }{r}, make([]byte, 1<<18))
	return n, crc.Sum32(), err
}

// dial opens a connection to the host of a URL, which ends within a minute.
func dial(t *testing.T, url string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// readFinal reads answers up to the one that is no interim one.
func readFinal(r io.Reader) (*http.Response, error) {
	reader := bufio.NewReader(r)
	for {
		resp, err := http.ReadResponse(reader, nil)
		if err != nil || resp.StatusCode >= 200 {
			return resp, err
		}
	}
}

// recorder is an upstream that takes every request and remembers it, and a
// second address of which nobody but a caller knows.
type recorder struct {
	address   string
	elsewhere string
	status    int // that it answers; 0: 200

	mu     sync.Mutex // guards what follows
	seen   []recorded
	strays int // connections to elsewhere
}

// recorded is a request as it arrived.
type recorded struct {
	method, path, query, host string
	header, trailer           http.Header
	body                      string
}

func newRecorder(t *testing.T) *recorder {
	t.Helper()
	r := new(recorder)
	r.address = serve(t, r)
	stray, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stray.Close() })
	r.elsewhere = stray.Addr().String()
	go func() {
		for {
			conn, err := stray.Accept()
			if err != nil {
				return
			}
			conn.Close()
			r.mu.Lock()
			r.strays++
			r.mu.Unlock()
		}
	}()
	return r
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	r.mu.Lock()
	r.seen = append(r.seen, recorded{req.Method, req.URL.Path, req.URL.RawQuery, req.Host, req.Header.Clone(), req.Trailer.Clone(), string(body)})
	r.mu.Unlock()
	if r.status != 0 {
		w.WriteHeader(r.status)
	}
}

func (r *recorder) requests() []recorded {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.seen)
}

func (r *recorder) elsewhereSeen() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.strays
}

func (r *recorder) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen, r.strays = nil, 0
}

// assertInjected wants our token once in Authorization, X-Api-Key and the
// parameter access_token, and nothing that the caller has put there.
func (*recorder) assertInjected(t *testing.T, p *provider.Provider, got recorded) {
	t.Helper()
	token := p.IssuedTokens()[0]
	_, param := cutToken(got.query)
	if h := got.header; !slices.Equal(h["Authorization"], []string{"Bearer " + token}) || !slices.Equal(h["X-Api-Key"], []string{token}) || param != token {
		t.Errorf("the token is not where it belongs: query %s, header %q", got.query, h)
	}
	for field, values := range got.trailer {
		got.header["trailer "+field] = values
	}
	for field, values := range got.header {
		name := strings.ToLower(strings.ReplaceAll(field, "_", "-"))
		if strings.Contains(strings.Join(values, " "), "CALLER") ||
			field != "Authorization" && field != "X-Api-Key" && (strings.HasSuffix(name, "authorization") || strings.HasSuffix(name, "x-api-key")) {
			t.Errorf("the caller's own arrived in %s: %q", field, values)
		}
	}
	if strings.Contains(got.query, "CALLER") {
		t.Errorf("the caller's own arrived in the query: %s", got.query)
	}
}

// cutToken takes the token's parameter from the end of a query.
func cutToken(query string) (rest, token string) {
	rest, token, found := strings.Cut(query, "&access_token=")
	if !found {
		token, _ = strings.CutPrefix(query, "access_token=")
		rest = ""
	}
	return rest, token
}

// hasNone wants no token that was issued in a text.
func hasNone(t *testing.T, p *provider.Provider, what, text string) {
	t.Helper()
	for _, token := range p.IssuedTokens() {
		if i := strings.Index(text, token); i >= 0 {
			t.Errorf("a token is in %s: %s", what, text[max(0, i-300):i])
		}
	}
}

// anyHost makes the site of a Caddyfile answer to any Host.
func anyHost(text string) string {
	return strings.Replace(text, "\nhttp://127.0.0.1:", "\nhttp://:", 1)
}

// outcomes returns the sources and outcomes of the access log.
func outcomes(c *harness.Caddy) []string {
	var all []string
	for _, line := range c.LogLines() {
		if line["msg"] == "handled request" {
			all = append(all, fmt.Sprintf("%v %v", line["token_source"], line["token_outcome"]))
		}
	}
	return all
}

// mixedListener listens at one address and tells plain connections from those
// with TLS by their first byte.
type mixedListener struct {
	address       string
	plain, secure *fedListener
}

// fedListener is a listener that gets its connections from a channel.
type fedListener struct {
	net.Listener
	conns chan net.Conn
	done  chan struct{} // closed by Close
	once  sync.Once
}

func newMixedListener(t *testing.T) *mixedListener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	fed := func() *fedListener {
		return &fedListener{Listener: listener, conns: make(chan net.Conn), done: make(chan struct{})}
	}
	m := &mixedListener{listener.Addr().String(), fed(), fed()}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go m.feed(conn)
		}
	}()
	return m
}

func (m *mixedListener) feed(conn net.Conn) {
	reader := bufio.NewReader(conn)
	first, err := reader.Peek(1)
	if err != nil {
		conn.Close()
		return
	}
	to := m.plain
	if first[0] == 0x16 { // a TLS handshake
		to = m.secure
	}
	select {
	case to.conns <- peekedConn{conn, reader}:
	case <-to.done:
		conn.Close()
	}
}

func (l *fedListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *fedListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// peekedConn is a connection of which something was read already.
type peekedConn struct {
	net.Conn
	reader *bufio.Reader
}

func (c peekedConn) Read(p []byte) (int, error) { return c.reader.Read(p) }
