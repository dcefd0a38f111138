package caddy_test

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// prover is a provider and an API that both check proofs (RFC 9449, section 4.3).
type prover struct {
	tokens, api string

	mu       sync.Mutex // guards everything below
	asked    int
	key      map[string]string // by token, the thumbprint of its key
	proofs   map[string]bool   // by jti
	nonce    string            // that the API wants; "": none
	bodies   []string          // that came with a proof that is in order
	problems []string
	targets  []string // htu of the requests to the API
}

func newProver(t *testing.T) *prover {
	p := &prover{key: make(map[string]string), proofs: make(map[string]bool)}
	tokens, api := httptest.NewServer(http.HandlerFunc(p.issue)), httptest.NewServer(http.HandlerFunc(p.serve))
	t.Cleanup(func() {
		for _, server := range []*httptest.Server{tokens, api} {
			server.CloseClientConnections()
			server.Close()
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, problem := range p.problems {
			t.Error(problem)
		}
	})
	p.tokens, p.api = tokens.URL, api.URL
	return p
}

type proofClaims struct{ Jti, Htm, Htu, Ath, Nonce string }

// check returns the key and the claims of a request's proof, and what is wrong with it.
func (p *prover) check(r *http.Request, token string) (key string, c proofClaims, problem string) {
	if n := len(r.Header["Dpop"]); n != 1 {
		return "", c, fmt.Sprintf("there are %d proofs", n)
	}
	signed, err := jose.ParseSigned(r.Header.Get("Dpop"), []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return "", c, err.Error()
	}
	header := signed.Signatures[0].Protected
	if header.JSONWebKey == nil || !header.JSONWebKey.IsPublic() || header.ExtraHeaders["typ"] != "dpop+jwt" {
		return "", c, "its header is not in order"
	}
	text, err := signed.Verify(header.JSONWebKey)
	if err != nil {
		return "", c, err.Error()
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return "", c, err.Error()
	}
	sum, _ := header.JSONWebKey.Thumbprint(crypto.SHA256)
	key = string(sum)
	ath := ""
	if token != "" {
		digest := sha256.Sum256([]byte(token))
		ath = base64.RawURLEncoding.EncodeToString(digest[:])
	}
	switch target := "http://" + r.Host + r.URL.EscapedPath(); {
	case c.Htm != r.Method || c.Htu != target:
		return key, c, fmt.Sprintf("it is for %s %s, not %s %s", c.Htm, c.Htu, r.Method, target)
	case c.Ath != ath:
		return key, c, "it is for another token"
	case c.Jti == "" || p.proofs[c.Jti]:
		return key, c, "it came before"
	}
	p.proofs[c.Jti] = true
	return key, c, ""
}

func (p *prover) issue(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	key, _, problem := p.check(r, "")
	if problem != "" {
		p.problems = append(p.problems, "at the token endpoint: "+problem)
		answerJSON(w, http.StatusBadRequest, map[string]any{"error": "invalid_dpop_proof"})
		return
	}
	token := "bound-" + rand.Text()
	p.key[token] = key
	answerJSON(w, http.StatusOK, map[string]any{"access_token": token, "token_type": "DPoP", "expires_in": 3600})
}

func (p *prover) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	p.mu.Lock()
	defer p.mu.Unlock()
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "DPoP ")
	key, c, problem := p.check(r, token)
	if problem != "" {
		p.problems = append(p.problems, "at the API: "+problem)
	}
	p.targets = append(p.targets, c.Htu)
	switch {
	case problem != "" || p.key[token] == "" || p.key[token] != key:
		w.Header().Set("WWW-Authenticate", `DPoP error="invalid_token"`)
		w.WriteHeader(http.StatusUnauthorized)
	case c.Nonce != p.nonce:
		w.Header().Set("DPoP-Nonce", p.nonce)
		w.Header().Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
		w.WriteHeader(http.StatusUnauthorized)
	default:
		p.bodies = append(p.bodies, string(body))
		fmt.Fprintf(w, "hello %d", len(body))
	}
}

func (p *prover) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

// count returns how many token requests there were, and how many to the API.
func (p *prover) count() (asked, served int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked, len(p.targets)
}

func (p *prover) start(t *testing.T, site string) (c *harness.Caddy, url string) {
	t.Helper()
	text, url := caddyfile(t, fmt.Sprintf(`source bound {
			grant client_credentials
			token_url %s/token
			client_id %s
			client_secret {file.{{dir}}/secret}
			dpop
		}`, p.tokens, provider.ClientID), site)
	return harness.Start(t, text, withSecret(provider.ClientSecret)), url
}

// post sends a body, with a proof of the caller's own.
func post(t *testing.T, url, body string) (status int, answer string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header["DPoP"], req.Header["dpop"] = []string{"of-the-caller"}, []string{"of-the-caller-too"}
	resp, answer := harness.Do(t, req)
	return resp.StatusCode, answer
}

func TestEachRequestHasAProofOfItsOwn(t *testing.T) {
	t.Parallel()
	p := newProver(t)
	_, url := p.start(t, "inject_token bound "+p.api)
	for range 3 {
		if status, answer := post(t, url+"/a", "body"); status != http.StatusOK {
			t.Errorf("answered %d %s", status, answer)
		}
	}
	p.set(func() { clear(p.key) })
	if status, answer := post(t, url+"/a", "body"); status != http.StatusOK {
		t.Errorf("after the token was refused answered %d %s", status, answer)
	}
	if asked, served := p.count(); asked != 2 || served != 5 {
		t.Errorf("%d token requests and %d to the API, want 2 and 5", asked, served)
	}
}

func TestANonceIsAnsweredWithTheWholeBody(t *testing.T) {
	t.Parallel()
	p := newProver(t)
	_, url := p.start(t, "inject_token bound "+p.api+" {\nreplay_buffer 4KiB\n}")
	p.set(func() { p.nonce = "nonce-1" })
	body := strings.Repeat("0123456789", 300)
	if status, answer := post(t, url, body); status != http.StatusOK || answer != "hello 3000" {
		t.Errorf("answered %d %s", status, answer)
	}
	if _, served := p.count(); served != 2 {
		t.Errorf("%d requests came to the API", served)
	}
	// A body that is too large for a second time leaves the nonce to the next one.
	p.set(func() { p.nonce = "nonce-2" })
	large := strings.Repeat("0123456789", 3000)
	if status, _ := post(t, url, large); status != http.StatusUnauthorized {
		t.Errorf("a large body with an old nonce is answered %d", status)
	}
	if status, answer := post(t, url, large); status != http.StatusOK || answer != "hello 30000" {
		t.Errorf("the next is answered %d %s", status, answer)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asked != 1 || len(p.bodies) != 2 || p.bodies[0] != body || p.bodies[1] != large {
		t.Errorf("%d token requests, %d bodies", p.asked, len(p.bodies))
	}
}

func TestAProofIsOfTheURLThatTheAPIGets(t *testing.T) {
	t.Parallel()
	p := newProver(t)
	_, url := p.start(t, fmt.Sprintf(`handle_path /stripped/* {
		inject_token bound %[1]s
	}
	handle /rewritten {
		rewrite * /elsewhere?x=1
		inject_token bound %[1]s
	}
	handle /named {
		inject_token bound %[1]s {
			header_up Host api.example.org
		}
	}
	handle {
		inject_token bound %[1]s
	}`, p.api))
	for path, want := range map[string]string{
		"/stripped/a/b?q=1": "/a/b", "/rewritten": "/elsewhere", "/named": "http://api.example.org/named",
		"/": "/", "": "/", "/a%2Fb%20c?x=%20&y;z": "/a%2Fb%20c", "/%C3%A9/(a)!*'": "/%C3%A9/(a)!*'", "//double//": "//double//", "/q?": "/q",
	} {
		if status, answer := post(t, url+path, ""); status != http.StatusOK {
			t.Errorf("%s is answered %d %s", path, status, answer)
		}
		p.set(func() {
			if got := p.targets[len(p.targets)-1]; !strings.HasSuffix(got, want) || strings.Contains(got, "?") {
				t.Errorf("%s: the proof is for %s", path, got)
			}
		})
	}
}

func TestARestartKeepsTheKeyOfAToken(t *testing.T) {
	t.Parallel()
	p := newProver(t)
	c, url := p.start(t, "inject_token bound "+p.api)
	post(t, url, "")
	c.Stop()
	again := c.Again()
	again.Eventually(time.Minute, "it serves again", func() bool {
		status, _ := post(t, url, "")
		return status == http.StatusOK
	})
	if asked, _ := p.count(); asked != 1 {
		t.Errorf("%d token requests", asked)
	}
}
