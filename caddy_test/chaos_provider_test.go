package caddy_test

import (
	"bytes"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"
)

// chaosGate stands before the token endpoint of a provider that is slow and
// fails now and then. It always fails before the provider was asked, so that a
// failure spends no refresh token; and what it has passed on happens, whether
// or not who asked is still there.
type chaosGate struct {
	*httptest.Server
	target string // of the provider's token endpoint

	mu     sync.Mutex // guards everything below
	random *rand.Rand
	asked  int // token requests
	failed int // of them, before the provider was asked
	open   map[string]int
	spends map[string][]spend // by refresh token
}

// spend is a refresh token on its way to the provider.
type spend struct {
	node string
	at   time.Time
}

// nodeHeader is the field of a token request that tells which node sends it.
const nodeHeader = "X-Node-Key"

func newChaosGate(t *testing.T, target string, seed uint64) *chaosGate {
	g := &chaosGate{target: target, random: rand.New(rand.NewPCG(seed, 1)), open: make(map[string]int),
		spends: make(map[string][]spend)}
	g.Server = httptest.NewServer(g)
	t.Cleanup(g.Close)
	return g
}

func (g *chaosGate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	node := r.Header.Get(nodeHeader)
	before, after, fails := g.arrive(node)
	defer g.leave(node)
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if fails {
		http.Error(w, "busy", http.StatusServiceUnavailable)
		return
	}
	time.Sleep(before)
	status, answer := g.ask(node, r, body)
	time.Sleep(after)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(answer)
}

// arrive says how long a token request takes, before and after the provider
// has decided, and whether it fails instead.
func (g *chaosGate) arrive(node string) (before, after time.Duration, fails bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked++
	g.open[node]++
	takes := 50*time.Millisecond + time.Duration(g.random.Int64N(int64(450*time.Millisecond)))
	before = time.Duration(g.random.Int64N(int64(takes)))
	if fails = g.random.IntN(10) == 0; fails {
		g.failed++
	}
	return before, takes - before, fails
}

func (g *chaosGate) leave(node string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open[node]--
}

// ask asks the provider, not on the context of who asked.
func (g *chaosGate) ask(node string, r *http.Request, body []byte) (status int, answer []byte) {
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return http.StatusBadRequest, nil
	}
	if token := form.Get("refresh_token"); token != "" {
		g.mu.Lock()
		g.spends[token] = append(g.spends[token], spend{node, time.Now()})
		g.mu.Unlock()
	}
	req, err := http.NewRequest(r.Method, g.target, bytes.NewReader(body))
	if err != nil {
		return http.StatusInternalServerError, nil
	}
	req.Header = r.Header.Clone()
	client := http.Client{Timeout: 20 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		return http.StatusBadGateway, nil
	}
	defer resp.Body.Close()
	if answer, err = io.ReadAll(resp.Body); err != nil {
		return http.StatusBadGateway, nil
	}
	return resp.StatusCode, answer
}

// asking says whether a token request of a node is open.
func (g *chaosGate) asking(node string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open[node] > 0
}

// spentTwice returns the refresh tokens that came to the provider more than
// once.
func (g *chaosGate) spentTwice() map[string][]spend {
	g.mu.Lock()
	defer g.mu.Unlock()
	twice := maps.Clone(g.spends)
	maps.DeleteFunc(twice, func(_ string, spends []spend) bool { return len(spends) < 2 })
	return twice
}

// counts returns how many token requests there were, and how many failed.
func (g *chaosGate) counts() (asked, failed int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.asked, g.failed
}
