package caddy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// front stands before a server, and can be away or reset connections.
type front struct {
	t      *testing.T
	addr   string
	target string

	mu       sync.Mutex // guards what follows
	listener net.Listener
	conns    map[net.Conn]bool
	resets   bool
}

// newFront opens a front before a server at an URL.
func newFront(t *testing.T, target string) *front {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	f := &front{t: t, addr: "127.0.0.1:" + itoa(harness.Port(t)), target: u.Host, conns: make(map[net.Conn]bool)}
	f.Open()
	t.Cleanup(f.Close)
	return f
}

// Open lets connections through from now on.
func (f *front) Open() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.resets = false
	if f.listener != nil {
		return
	}
	l, err := net.Listen("tcp", f.addr)
	if err != nil {
		f.t.Error(err)
		return
	}
	f.listener = l
	go f.accept(l)
}

// Close refuses connections from now on, and ends those that there are.
func (f *front) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.listener != nil {
		f.listener.Close()
		f.listener = nil
	}
	f.endAll()
}

// Reset resets connections from now on, once something has come.
func (f *front) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.resets = true
	f.endAll()
}

func (f *front) endAll() {
	for conn := range f.conns {
		conn.Close()
	}
	clear(f.conns)
}

func (f *front) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		f.mu.Lock()
		away, resets := f.listener != l, f.resets
		f.conns[conn] = true
		f.mu.Unlock()
		switch {
		case away:
			conn.Close()
		case resets:
			go resetAfter(conn, 1)
		default:
			go f.pipe(conn)
		}
	}
}

func (f *front) pipe(conn net.Conn) {
	defer conn.Close()
	behind, err := net.Dial("tcp", f.target)
	if err != nil {
		return
	}
	defer behind.Close()
	go func() {
		_, _ = io.Copy(behind, conn)
		behind.Close()
	}()
	_, _ = io.Copy(conn, behind)
	f.mu.Lock()
	delete(f.conns, conn)
	f.mu.Unlock()
}

// resetAfter reads so many bytes at least and resets the connection.
func resetAfter(conn net.Conn, least int64) {
	_, _ = io.CopyN(io.Discard, conn, least)
	_ = conn.(*net.TCPConn).SetLinger(0) // closing sends a reset now
	conn.Close()
}

// faultyAPI stands before the API of a provider, which has one node or two. It
// can refuse what the provider's API would take.
type faultyAPI struct {
	Nodes []string

	api      *httputil.ReverseProxy
	requests atomic.Int64

	mu           sync.Mutex // guards what follows
	refusals     int        // to come; negative: for ever
	secondNode   bool       // refuses everything
	halfwayAfter int64      // bytes of the body; 0: not at all
}

// newFaultyAPI begins with an API that works.
func newFaultyAPI(t *testing.T, p *provider.Provider, nodes int) *faultyAPI {
	t.Helper()
	target, err := url.Parse(p.API)
	if err != nil {
		t.Fatal(err)
	}
	a := &faultyAPI{api: httputil.NewSingleHostReverseProxy(target)}
	for node := range nodes {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { a.serve(w, r, node) }))
		t.Cleanup(func() {
			s.CloseClientConnections()
			s.Close()
		})
		a.Nodes = append(a.Nodes, s.URL)
	}
	return a
}

func (a *faultyAPI) refuse(times int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refusals = times
}

func (a *faultyAPI) refuseOnSecondNode() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.secondNode = true
}

func (a *faultyAPI) resetHalfway(after int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.halfwayAfter = after
}

func (a *faultyAPI) serve(w http.ResponseWriter, r *http.Request, node int) {
	a.requests.Add(1)
	a.mu.Lock()
	refused := a.refusals != 0 || a.secondNode && node == 1
	if a.refusals > 0 {
		a.refusals--
	}
	halfway := a.halfwayAfter
	a.mu.Unlock()
	w.Header().Set("X-Node-Key", itoa(node))
	switch {
	case refused:
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		http.Error(w, "refused", http.StatusUnauthorized)
	case halfway > 0:
		_, _ = io.CopyN(io.Discard, r.Body, halfway)
		if conn, _, err := hijack(w); err == nil {
			resetAfter(conn, 0)
		}
	default:
		a.api.ServeHTTP(w, r)
	}
}

func hijack(w http.ResponseWriter) (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(w).Hijack()
}
