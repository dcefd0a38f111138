package caddy_test

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// issuer is a provider of any number of clients, each of whose tokens says
// whose it is. Its tokens live an hour: what renews them is a refusal.
type issuer struct {
	url string

	mu        sync.Mutex // guards what follows
	owners    map[string]string
	revoked   map[string]bool
	asked     map[string]int
	newest    map[string]string // token of a client
	intercept func(w http.ResponseWriter, r *http.Request, client string, n int) bool
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{owners: make(map[string]string), revoked: make(map[string]bool), asked: make(map[string]int), newest: make(map[string]string)}
	i.url = "http://" + serve(t, i) + "/token"
	return i
}

// source is a source with the name of a client.
func (i *issuer) source(name string, options ...string) string {
	return fmt.Sprintf("source %s {\n grant client_credentials\n token_url %s\n client_id %[1]s\n client_secret {file.{{dir}}/secret}\n %[3]s\n}\n",
		name, i.url, strings.Join(options, "\n"))
}

// interceptWith has the n-th token request of a client (from 1) answered by a
// function, if that returns true.
func (i *issuer) interceptWith(f func(w http.ResponseWriter, r *http.Request, client string, n int) bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.intercept = f
}

func (i *issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	client, secret, _ := r.BasicAuth()
	_, _ = io.Copy(io.Discard, r.Body) // only then does the server see the client leave
	i.mu.Lock()
	i.asked[client]++
	n, intercept := i.asked[client], i.intercept
	i.mu.Unlock()
	if intercept != nil && intercept(w, r, client, n) {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if client == "" || secret != provider.ClientSecret {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"error":"invalid_client"}`)
		return
	}
	token := "token-of-" + client + "-" + itoa(n) + "-" + rand.Text()
	i.mu.Lock()
	i.owners[token], i.newest[client] = client, token
	i.mu.Unlock()
	_ = json.NewEncoder(w).Encode(map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": 3600})
}

// owner returns the client to whom a token was issued; "" if there is none.
func (i *issuer) owner(token string) string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.owners[token]
}

// valid says whether a token was issued and not revoked.
func (i *issuer) valid(token string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.owners[token] != "" && !i.revoked[token]
}

// revoke ends the tokens that these clients have; of all where none is named.
func (i *issuer) revoke(clients ...string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for token, client := range i.owners {
		if len(clients) == 0 || slices.Contains(clients, client) {
			i.revoked[token] = true
		}
	}
}

// pardon makes every token valid again.
func (i *issuer) pardon() {
	i.mu.Lock()
	defer i.mu.Unlock()
	clear(i.revoked)
}

// count returns how many token requests of a client there were.
func (i *issuer) count(client string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.asked[client]
}

// token returns the newest token of a client.
func (i *issuer) token(client string) string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.newest[client]
}

// bearerOf returns the token of a request, "" if it has not exactly one.
func bearerOf(r *http.Request) string {
	fields := r.Header["Authorization"]
	if len(fields) != 1 {
		return ""
	}
	token, _ := strings.CutPrefix(fields[0], "Bearer ")
	return token
}

// gate is an API: who has a valid token comes to next, all others are refused.
// It counts how often each path was refused.
type gate struct {
	valid  func(token string) bool
	refuse http.HandlerFunc // nil: refuseLoudly
	next   http.HandlerFunc // nil: says hello

	mu      sync.Mutex // guards what follows
	refused map[string]int
	passed  map[string]int
	tokens  map[string][]string // that came, by path
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token, path := bearerOf(r), r.URL.Path
	valid := g.valid(token)
	g.mu.Lock()
	if g.refused == nil {
		g.refused, g.passed, g.tokens = make(map[string]int), make(map[string]int), make(map[string][]string)
	}
	if valid {
		g.passed[path]++
	} else {
		g.refused[path]++
	}
	g.tokens[path] = append(g.tokens[path], token)
	g.mu.Unlock()
	switch {
	case !valid && g.refuse == nil:
		refuseLoudly(w, r)
	case !valid:
		g.refuse(w, r)
	case g.next == nil:
		hello(w, r)
	default:
		g.next(w, r)
	}
}

// attempts returns how often a path was refused and let through.
func (g *gate) attempts(path string) (refused, passed int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.refused[path], g.passed[path]
}

// seen returns the tokens that came to a path.
func (g *gate) seen(path string) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.tokens[path])
}

func hello(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	w.Header().Set("Trailer", "X-After")
	w.Header().Set("Set-Cookie", "session=good")
	fmt.Fprintf(w, "hello %s %s, %d bytes, %v", r.Method, r.URL.Path, len(body), err)
	w.Header().Set("X-After", "the good end")
}

// refusedMark stands in every part of a refusal of refuseLoudly.
const refusedMark = "REFUSED"

var refusedBody = strings.Repeat("<p>"+refusedMark+"</p>\n", 1000)

// refuseLoudly answers 401, or the status that the query names, without a look
// at the body, in all places where something of it could stay behind.
func refuseLoudly(w http.ResponseWriter, r *http.Request) {
	status := http.StatusUnauthorized
	if named := r.URL.Query().Get("refuse"); named != "" {
		fmt.Sscan(named, &status)
	}
	h := w.Header()
	for _, field := range []string{"Set-Cookie", "X-Refused", "Etag", "Link", "Cache-Control", "Vary", "Location", "Retry-After", "Content-Language"} {
		h.Add(field, refusedMark+" of "+field)
	}
	h.Add("Set-Cookie", "second="+refusedMark)
	h.Set("Content-Type", "text/"+refusedMark)
	h.Set("WWW-Authenticate", `Bearer realm="`+refusedMark+`", error="invalid_token"`)
	h.Set("Trailer", "X-Refused-Trailer")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, refusedBody)
	h.Set("X-Refused-Trailer", refusedMark)
	h.Set(http.TrailerPrefix+"X-Refused-Late", refusedMark)
}

// refuseEarly is refuseLoudly of a server that does not wait for the body.
func refuseEarly(w http.ResponseWriter, r *http.Request) { answerEarly(w, r, refuseLoudly) }

// answerEarly answers without waiting for the body. Go's server waits for it
// over HTTP/1.1, unless it is a large one, so there the connection is taken
// over, and closed as other servers do it: what still comes is read and dropped
// for a while.
func answerEarly(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
	if r.ProtoMajor != 1 {
		answer(w, r)
		return
	}
	recorder := httptest.NewRecorder()
	answer(recorder, r)
	resp := recorder.Result()
	resp.ContentLength, resp.TransferEncoding, resp.Close = -1, []string{"chunked"}, true
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	if resp.Write(conn) != nil {
		return
	}
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.Copy(io.Discard, conn)
}

// assertRefusedLoudly wants that refusal, whole.
func assertRefusedLoudly(t *testing.T, what string, resp *http.Response, body string, status int) {
	t.Helper()
	if resp.StatusCode != status || body != refusedBody {
		t.Errorf("%s: answered %d and %d bytes %.100q, want %d and the API's own %d bytes", what, resp.StatusCode, len(body), body, status, len(refusedBody))
		return
	}
	if got := resp.Header["Set-Cookie"]; !slices.Equal(got, []string{refusedMark + " of Set-Cookie", "second=" + refusedMark}) {
		t.Errorf("%s: the cookies are %q", what, got)
	}
	if got := resp.Header.Get("WWW-Authenticate"); !strings.Contains(got, refusedMark) {
		t.Errorf("%s: the challenge is %q", what, got)
	}
	if got := resp.Header.Get("X-Refused"); got != refusedMark+" of X-Refused" {
		t.Errorf("%s: X-Refused is %q", what, got)
	}
	for _, field := range []string{"X-Refused-Trailer", "X-Refused-Late"} {
		if got := resp.Trailer.Get(field); got != refusedMark {
			t.Errorf("%s: the trailer %s is %q", what, field, got)
		}
	}
}

// shown is all of an answer that a caller sees, without what differs between
// any two.
func shown(resp *http.Response, body string) string {
	header := resp.Header.Clone()
	for _, field := range []string{"Date", "Alt-Svc"} {
		header.Del(field)
	}
	return fmt.Sprintf("%d %v %v %q", resp.StatusCode, header, resp.Trailer, body)
}

// crowd lets nobody go on until all have come. Who waits longer than a minute
// goes on alone.
type crowd struct {
	mu      sync.Mutex // guards missing
	missing int
	all     chan struct{}
}

func newCrowd(n int) *crowd { return &crowd{missing: n, all: make(chan struct{})} }

func (c *crowd) wait() {
	c.mu.Lock()
	if c.missing--; c.missing == 0 {
		close(c.all)
	}
	c.mu.Unlock()
	select {
	case <-c.all:
	case <-time.After(time.Minute):
	}
}

// come waits until all have come to a crowd, and is not one of them.
func (c *crowd) come() {
	select {
	case <-c.all:
	case <-time.After(time.Minute):
	}
}

// waitOutcomes waits until the access log has so many lines of an outcome.
func waitOutcomes(t *testing.T, c *harness.Caddy, outcome string, n int) {
	t.Helper()
	text, count := `"token_outcome":"`+outcome+`"`, 0
	defer func() {
		if t.Failed() {
			t.Logf("the access log says %s %d times", outcome, count)
		}
	}()
	c.Eventually(20*time.Second, "the access log says "+outcome+" "+itoa(n)+" times", func() bool {
		count = strings.Count(c.Log(), text)
		return count == n
	})
}

// accessLines returns the lines of the access log for a path with its query.
func accessLines(c *harness.Caddy, uri string) []map[string]any {
	var lines []map[string]any
	for _, line := range c.LogLines() {
		request, _ := line["request"].(map[string]any)
		if line["msg"] == "handled request" && request["uri"] == uri {
			lines = append(lines, line)
		}
	}
	return lines
}

// warm asks for a path until there is a token, which is the first time.
func warm(t *testing.T, urls ...string) {
	t.Helper()
	for _, url := range urls {
		if resp, body := harness.Get(t, url); resp.StatusCode != http.StatusOK {
			t.Fatalf("%s was answered %d %q before anything was refused", url, resp.StatusCode, body)
		}
	}
}

// eventuallyServed waits until a GET is answered with 200: the token was
// renewed.
func eventuallyServed(t *testing.T, what, url string) {
	t.Helper()
	harness.Eventually(t, 20*time.Second, what+": callers are served again", func() bool {
		resp, _ := harness.Get(t, url)
		return resp.StatusCode == http.StatusOK
	})
}
