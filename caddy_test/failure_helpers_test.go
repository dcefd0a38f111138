package caddy_test

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// hang takes a token request and never answers it.
func hang(_ http.ResponseWriter, r *http.Request, _ int) bool {
	<-r.Context().Done()
	return true
}

// trickle answers a byte a second: one token would take minutes.
func trickle(w http.ResponseWriter, r *http.Request, _ int) bool {
	w.Header().Set("Content-Type", "application/json")
	const answer = `{"access_token":"this-would-take-two-minutes-to-arrive-at-a-byte-a-second","expires_in":3600}`
	for i := range len(answer) {
		if _, err := io.WriteString(w, answer[i:i+1]); err != nil {
			return true
		}
		http.NewResponseController(w).Flush()
		select {
		case <-time.After(time.Second):
		case <-r.Context().Done():
			return true
		}
	}
	return true
}

// say answers a token request with a status, a header and a body.
func say(status int, header http.Header, body string) func(http.ResponseWriter, *http.Request, int) bool {
	return func(w http.ResponseWriter, _ *http.Request, _ int) bool {
		for name, values := range header {
			w.Header()[name] = values
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
		return true
	}
}

// resetting is a server that reads what comes and resets the connection. It
// returns the URL and how many connections there were.
func resetting(t *testing.T) (url string, connections *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	connections = new(atomic.Int64)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			_, _ = conn.Read(make([]byte, 4096))
			_ = conn.(*net.TCPConn).SetLinger(0) // closing sends a reset now
			conn.Close()
		}
	}()
	return "http://" + l.Addr().String() + "/token", connections
}

// nameServer knows no name at all, on loopback. It returns its address.
func nameServer(t *testing.T) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		packet := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(packet)
			if err != nil {
				return
			}
			if n < 12 {
				continue
			}
			end := 12 // of the question: a name, a type and a class
			for end < n && packet[end] != 0 {
				end += int(packet[end]) + 1
			}
			if end += 5; end > n {
				continue
			}
			answer := append([]byte(nil), packet[:end]...)
			answer[2], answer[3] = 0x81|packet[2]&0x78, 0x83 // a response: there is no such name
			copy(answer[4:12], []byte{0, 1, 0, 0, 0, 0, 0, 0})
			_, _ = conn.WriteTo(answer, from)
		}
	}()
	return conn.LocalAddr().String()
}

// secondUpstream is the API of a provider at another address.
func secondUpstream(t *testing.T, p *provider.Provider) string {
	t.Helper()
	api, err := url.Parse(p.API)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(httputil.NewSingleHostReverseProxy(api))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s.URL
}

// upstreamState is what the admin API says of an upstream.
type upstreamState struct {
	Address     string `json:"address"`
	NumRequests int    `json:"num_requests"`
	Fails       int    `json:"fails"`
}

// upstreams returns the state of every upstream.
func upstreams(t *testing.T, c *harness.Caddy) []upstreamState {
	t.Helper()
	var states []upstreamState
	if text := c.AdminGet("/reverse_proxy/upstreams"); json.Unmarshal([]byte(text), &states) != nil {
		t.Fatalf("the admin API says of upstreams: %s", text)
	}
	return states
}

// underWay returns how many requests are at the upstreams, or wait for a token
// to go there.
func underWay(t *testing.T, c *harness.Caddy) int {
	n := 0
	for _, upstream := range upstreams(t, c) {
		n += upstream.NumRequests
	}
	return n
}

// assertNoneDown wants upstreams that have not failed once.
func assertNoneDown(t *testing.T, c *harness.Caddy, addresses ...string) {
	t.Helper()
	known := make(map[string]int)
	for _, upstream := range upstreams(t, c) {
		known[upstream.Address] = upstream.Fails
	}
	for _, address := range addresses {
		fails, ok := known[strings.TrimPrefix(address, "http://")]
		if !ok {
			t.Errorf("the admin API does not know the upstream %s, only %v", address, known)
		} else if fails != 0 {
			t.Errorf("the upstream %s counts %d failures that were not its own", address, fails)
		}
	}
}

// answered is what a caller got.
type answered struct {
	status int
	header http.Header
	body   string
	took   time.Duration
}

// ask sends a GET and returns what came.
func ask(t *testing.T, url string) answered {
	t.Helper()
	got := tryToAsk(url)
	if got.status == 0 {
		t.Fatal(got.body)
	}
	return got
}

// tryToAsk is ask for goroutines: where nothing came, the status is 0 and the
// body says why.
func tryToAsk(url string) answered {
	began := time.Now()
	client := http.Client{
		Timeout:       time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Get(url)
	if err != nil {
		return answered{body: err.Error()}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return answered{body: err.Error()}
	}
	return answered{resp.StatusCode, resp.Header, string(body), time.Since(began)}
}

// assertRefused wants an answer that says why there is no token.
func (a answered) assertRefused(t *testing.T, status int, sentence, code string) {
	t.Helper()
	if !a.isRefused(t, status, sentence, code) {
		t.FailNow()
	}
}

// isRefused is assertRefused for goroutines. The answer is as documented:
// Retry-After only where trying again can help.
func (a answered) isRefused(t *testing.T, status int, sentence, code string) (ok bool) {
	t.Helper()
	proxyStatus := "inject_token; error=proxy_internal_response"
	if code != "" {
		proxyStatus += `; details="` + code + `"`
	}
	if a.status != status || a.body != sentence+"\n" {
		t.Errorf("answered %d %q, want %d %q", a.status, a.body, status, sentence)
		return false
	}
	ok = true
	for field, want := range map[string]string{
		"Cache-Control": "no-store", "Content-Type": "text/plain; charset=utf-8", "Proxy-Status": proxyStatus,
	} {
		if got := a.header[field]; len(got) != 1 || got[0] != want {
			t.Errorf("%s is %q, want %q; the body: %s", field, got, want, a.body)
			ok = false
		}
	}
	seconds, err := strconv.Atoi(a.header.Get("Retry-After"))
	if status != http.StatusServiceUnavailable {
		if a.header["Retry-After"] != nil {
			t.Errorf("Retry-After is %q although trying again cannot help; the body: %s", a.header["Retry-After"], a.body)
			ok = false
		}
	} else if err != nil || seconds < 1 || seconds > 60 {
		t.Errorf("Retry-After is %q; the body: %s", a.header["Retry-After"], a.body)
		ok = false
	}
	return ok
}

// The sentences of our own answers.
func noToken(source string) string {
	return "There is no token for this API: the provider of the token source " + source + " does not issue one at present."
}

func rejected(source string) string {
	return "There is no token for this API: the provider of the token source " + source + " rejects it, and an operator must see to that."
}

func notInTime(source string) string {
	return "There is no token for this API: the token source " + source + " did not get one in time."
}

// sourceLog returns the lines of the log that a source has written.
func sourceLog(c *harness.Caddy, source string) []map[string]any {
	var lines []map[string]any
	for _, line := range c.LogLines() {
		if line["logger"] == "token_sources."+source {
			lines = append(lines, line)
		}
	}
	return lines
}
