package caddy_test

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// emulator plays the providers of many shapes at one address, and their APIs at
// another. Each takes what its shape says and nothing else.
type emulator struct {
	provider, api string

	shapes map[string]*emulated // by the first segment of the path

	mu sync.Mutex // guards what they hold
}

// emulated is one provider with its API. The first token of one whose tokens end
// soon is issued when somebody is there to use it.
type emulated struct {
	shape   *shape
	open    chan struct{} // closed when the first token may be issued
	issued  []*issuedToken
	at      []time.Time     // when each was, by the clock of the test
	dead    map[string]bool // access tokens that were revoked
	renews  string          // the refresh token that is taken
	first   int             // the number, from 1, of the token of the first request that the API served
	last    int             // … and of the last one
	ids     map[any]bool    // of assertions
	key     string          // to which tokens are bound
	begun   int             // how often the grant was begun again, to no avail
	faults  []string        // of token requests, each of which was refused
	refused []string        // why the API refused requests
}

// newEmulator starts one until the test ends.
func newEmulator(t *testing.T, shapes []writtenShape) *emulator {
	e := &emulator{shapes: make(map[string]*emulated)}
	for _, s := range shapes {
		x := &emulated{shape: s.shape, open: make(chan struct{}), dead: make(map[string]bool), ids: make(map[any]bool)}
		if s.of["trigger"] != "clock" {
			close(x.open)
		}
		if s.of["grant"] == "refresh_token" {
			x.renews = s.shape.seed()
		}
		e.shapes[s.name] = x
	}
	provider, api := httptest.NewServer(http.HandlerFunc(e.serveToken)), httptest.NewServer(http.HandlerFunc(e.serveAPI))
	closeAtEnd(t, provider)
	closeAtEnd(t, api)
	e.provider, e.api = provider.URL, api.URL
	return e
}

// seed is the first refresh token of a shape, which was issued elsewhere.
func (s *shape) seed() string { return "seed-" + s.name + `-"+/=&<>` }

// of returns the emulated provider of a request.
func (e *emulator) of(r *http.Request) *emulated {
	name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	return e.shapes[name]
}

func (e *emulator) serveToken(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	x := e.of(r)
	if err != nil || x == nil {
		http.NotFound(w, r)
		return
	}
	skew := skews[x.shape.of["clock"]]
	arrived := time.Now().Add(skew)
	select {
	case <-x.open:
	case <-r.Context().Done():
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	w.Header().Set("Date", time.Now().Add(skew).UTC().Format(http.TimeFormat))
	switch fault := e.fault(x, received{r, string(body), e.provider, arrived, x.seen}); {
	case fault == "":
		x.shape.answer(w, x.issue())
	case fault == wantsNonce:
		w.Header().Set("DPoP-Nonce", x.nonce())
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"error":%q}`, wantsNonce)
	case strings.Contains(fault, wrongTime) && len(x.issued) == 0: // from then on it knows
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"error":"invalid_client"}`)
	case x.beginsAgain(received{r, string(body), e.provider, arrived, func(any) bool { return false }}):
		// Where the storage does not answer in time, as on a machine that is
		// overloaded, a refresh token is not spent. It goes on when that has passed.
		x.begun++
		w.WriteHeader(http.StatusServiceUnavailable)
	default:
		x.faults = append(x.faults, fault)
		x.shape.refuse(w)
	}
}

// beginsAgain says whether a request that is to be a refresh is the first one once
// more.
func (x *emulated) beginsAgain(r received) bool {
	return len(x.issued) > 0 && x.renews != "" && x.shape.of["grant"] != "refresh_token" &&
		x.shape.want(moment{path: "/" + x.shape.name}).differs(r) == ""
}

// fault says what is wrong with a token request; "" if it is the one that is wanted.
func (e *emulator) fault(x *emulated, r received) string {
	w := x.shape.want(moment{"/" + x.shape.name, x.renews != "", x.renews})
	fault := w.differs(r)
	if fault != "" || w.proof == "" {
		return fault
	}
	key, fault := proofOf(r.Request, w.proof, e.provider+r.URL.EscapedPath(), "", x.nonce(), r.at)
	switch {
	case fault != "":
		return fault
	case x.key != "" && key != x.key:
		return "a DPoP proof by another key than the one before"
	}
	x.key = key
	return ""
}

// nonce is what proofs for this provider must hold; "": nothing.
func (x *emulated) nonce() string {
	if x.shape.of["proof"] != "nonce" {
		return ""
	}
	return "nonce-of-" + x.shape.name
}

// seen says whether an id has come before.
func (x *emulated) seen(id any) bool {
	before := x.ids[id]
	x.ids[id] = true
	return before || id == nil
}

// skews are how wrong the clock of a provider is.
var skews = map[string]time.Duration{"ahead": time.Hour, "behind": -90 * time.Minute}

// issue makes the next token.
func (x *emulated) issue() issuedToken {
	s, n := x.shape, len(x.issued)+1
	t := &issuedToken{
		access:   fmt.Sprintf("%s-%d-%s+/=~", s.name, n, rand.Text()),
		at:       time.Now().Add(skews[s.of["clock"]]).Truncate(time.Second),
		lifetime: s.lifetime(n),
		first:    n == 1,
	}
	if s == partnerShape {
		t.access = partnerToken
	}
	if s.of["expiry"] == "jwt" {
		t.access = withExpiry(t.access, t.at.Add(t.lifetime))
	}
	if s.issuesRefreshTokens() && (n == 1 || s.of["renewal"] != "lasting") {
		t.refresh = fmt.Sprintf(`renew-%d-%s"+/=&<>`, n, rand.Text())
		x.renews = t.refresh
	}
	if s.renewsByAccessToken() {
		x.renews = t.access
	}
	x.issued, x.at = append(x.issued, t), append(x.at, time.Now())
	return *t
}

func (e *emulator) serveAPI(w http.ResponseWriter, r *http.Request) {
	x := e.of(r)
	if x == nil {
		http.NotFound(w, r)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	token, fault := x.shape.tokenOf(r, map[string]string{"<partner>": partnerToken, "<tenant>": shapeTenant, "<key>": shapeKey, "<user>": shapeUser}, func(token string) bool {
		n = 1 + slices.IndexFunc(x.issued, func(t *issuedToken) bool { return t.access == token })
		return n > 0
	})
	if fault == "" {
		fault = x.proven(r, token)
	}
	switch {
	case fault == wantsNonce:
		w.Header().Set("DPoP-Nonce", shapeAPINonce)
		w.Header().Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	case fault != "":
	case x.dead[token]:
		fault = "a token that was revoked"
	case x.issued[n-1].lifetime > 0 && time.Since(x.at[n-1]) > x.issued[n-1].lifetime:
		fault = "a token that has ended"
	}
	if fault != "" {
		x.refused = append(x.refused, fault)
		http.Error(w, "no valid token", http.StatusUnauthorized)
		return
	}
	x.first, x.last = cmp.Or(x.first, n), n
	fmt.Fprintf(w, "hello %s", x.shape.name)
}

// shapeAPINonce is what proofs for some APIs must hold. All of them are at one address, so
// that proofs for the others may hold it, too.
const shapeAPINonce = "nonce-of-the-api"

// proven says what is wrong with the proof of a request to the API: "" where none is
// wanted, and there is none.
func (x *emulated) proven(r *http.Request, token string) string {
	kind := x.shape.of["proof"]
	if kind == "none" {
		if len(r.Header.Values("Dpop")) > 0 {
			return "a DPoP proof of a token that is not bound"
		}
		return ""
	}
	nonce := ""
	if kind == "nonce" {
		nonce = shapeAPINonce
	}
	key, fault := proofOf(r, kind, "http://"+r.Host+r.URL.EscapedPath(), token, nonce, time.Now())
	if fault == "" && key != x.key {
		fault = "a DPoP proof by another key than that of the token"
	}
	return fault
}

// revoke ends every token that a provider has issued until now.
func (e *emulator) revoke(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, t := range e.shapes[name].issued {
		e.shapes[name].dead[t.access] = true
	}
}

// look returns what there is to know of a provider.
func (e *emulator) look(name string) emulated {
	e.mu.Lock()
	defer e.mu.Unlock()
	x := *e.shapes[name]
	x.issued, x.at, x.faults, x.refused = slices.Clone(x.issued), slices.Clone(x.at), slices.Clone(x.faults), slices.Clone(x.refused)
	return x
}
