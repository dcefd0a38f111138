package caddy_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/canary"
	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
)

// proving is a provider that takes nothing but a signed assertion, and an API that
// takes its tokens. What it refuses it repeats, as careless ones do.
type proving struct {
	*httptest.Server
	nest     canary.Nest
	written  []string // keys
	lifetime time.Duration
	check    func(form map[string]string, said assertion) error // what it wants beside a signature

	mu      sync.Mutex // guards what follows
	trusted []crypto.PublicKey
	seen    map[string]bool // every jti
	signers []crypto.PublicKey
	refused []string
	tokens  map[string]time.Time // until when they hold
}

// assertion is what a JWT says whose signature is right.
type assertion struct {
	header, claims map[string]any
}

func newProving(t *testing.T, trusted ...crypto.PublicKey) *proving {
	p := &proving{trusted: trusted, lifetime: time.Minute, seen: make(map[string]bool), tokens: make(map[string]time.Time)}
	p.check = p.isClient
	p.Server = httptest.NewServer(p)
	closeAtEnd(t, p.Server)
	return p
}

func (p *proving) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/token" {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		p.mu.Lock()
		defer p.mu.Unlock()
		if !time.Now().Before(p.tokens[token]) {
			w.WriteHeader(http.StatusUnauthorized)
		}
		return
	}
	if err := r.ParseForm(); err != nil {
		panic(http.ErrAbortHandler)
	}
	form := make(map[string]string)
	for name, values := range r.PostForm {
		form[name] = strings.Join(values, " and ")
	}
	text := form["assertion"]
	if text == "" {
		text = form["client_assertion"]
	}
	if parts := strings.Split(text, "."); len(parts) == 3 {
		p.nest.Add("assertion", parts[2])
	}
	w.Header().Set("Content-Type", "application/json")
	signer, err := p.take(form, text)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.refused = append(p.refused, err.Error())
		w.WriteHeader(http.StatusUnauthorized)
		_ = json.NewEncoder(w).Encode(map[string]string{"error": "invalid_client", "error_description": err.Error() + " in " + text})
		return
	}
	p.signers = append(p.signers, signer)
	token := rand.Text()
	p.nest.Add("token", token)
	p.tokens[token] = time.Now().Add(p.lifetime)
	_ = json.NewEncoder(w).Encode(map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": p.lifetime.Seconds()})
}

// take returns by which key an assertion was signed, or what is wrong with it.
func (p *proving) take(form map[string]string, text string) (crypto.PublicKey, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, key := range p.trusted {
		said, err := readAssertion(text, key)
		if err != nil {
			continue
		}
		now := float64(time.Now().Unix())
		iat, _ := said.claims["iat"].(float64)
		nbf, _ := said.claims["nbf"].(float64)
		exp, _ := said.claims["exp"].(float64)
		jti, _ := said.claims["jti"].(string)
		switch {
		case iat > now || nbf > now || exp <= now || exp-iat > 60:
			return nil, errors.New("not its time")
		case jti == "" || p.seen[jti]:
			return nil, errors.New("a jti that was here")
		}
		p.seen[jti] = true
		return key, p.check(form, said)
	}
	return nil, errors.New("a signature by nobody I trust")
}

// isClient holds RFC 7523, section 3.
func (p *proving) isClient(form map[string]string, said assertion) error {
	switch {
	case form["client_assertion_type"] != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" || form["grant_type"] != "client_credentials":
		return errors.New("another grant")
	case said.claims["iss"] != "crm" || said.claims["sub"] != "crm" || form["client_id"] != "crm" || said.claims["aud"] != p.URL+"/token":
		return errors.New("another client, or another audience")
	}
	return nil
}

func (p *proving) trust(keys ...crypto.PublicKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trusted = keys
}

// signed returns how many tokens a key has brought, and refusals what was refused.
func (p *proving) signed(key crypto.PublicKey) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, signer := range p.signers {
		if signer == key {
			n++
		}
	}
	return n
}

func (p *proving) refusals() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.refused)
}

// readAssertion verifies a JWT with a key of P-256 or RSA, and nothing else.
func readAssertion(text string, key crypto.PublicKey) (said assertion, err error) {
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return said, errors.New("this is no JWT")
	}
	var decoded [3][]byte
	for i, part := range parts {
		if decoded[i], err = base64.RawURLEncoding.Strict().DecodeString(part); err != nil {
			return said, err
		}
	}
	if err := errors.Join(json.Unmarshal(decoded[0], &said.header), json.Unmarshal(decoded[1], &said.claims)); err != nil {
		return said, err
	}
	hash := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	right := false
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		right = said.header["alg"] == "ES256" && len(decoded[2]) == 64 &&
			ecdsa.Verify(key, hash[:], new(big.Int).SetBytes(decoded[2][:32]), new(big.Int).SetBytes(decoded[2][32:]))
	case *rsa.PublicKey:
		right = said.header["alg"] == "RS256" && rsa.VerifyPKCS1v15(key, crypto.SHA256, hash[:], decoded[2]) == nil
	}
	if !right {
		return said, errors.New("the signature is another's")
	}
	return said, nil
}

// writeKey returns a key as PEM. Its lines are canaries from then on.
func (p *proving) writeKey(t *testing.T, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	p.written = append(p.written, text)
	for line := range strings.Lines(text) {
		// Of a curve the first line is the same for every key, as is the beginning of
		// an RSA key's.
		if line = strings.TrimSpace(line); len(line) >= 40 && !strings.HasPrefix(line, "MI") {
			p.nest.Add("key", line)
		}
	}
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		raw, err := key.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		p.nest.Add("key", string(raw))
		p.nest.Add("key", base64.StdEncoding.EncodeToString(raw))
	case *rsa.PrivateKey:
		p.nest.Add("key", string(key.D.Bytes()))
	}
	return text
}

// config is a Caddyfile with one source of this provider, and its API.
func (p *proving) config(t *testing.T, options string) (text, url string) {
	t.Helper()
	return caddyfile(t, fmt.Sprintf("source crm {\n token_url %s/token\n %s\n}", p.URL, options), "log\ninject_token crm "+p.URL)
}

// assertHidden looks for keys, assertions and tokens in all that may be seen of
// Caddy, and in what it has answered.
func (p *proving) assertHidden(t *testing.T, c *harness.Caddy, answers ...string) {
	t.Helper()
	seen := map[string]string{"the log": c.Log(), "the answers": strings.Join(answers, "\n")}
	for _, path := range []string{"/config/", "/token_sources/", "/token_sources/crm", "/metrics", "/debug/pprof/cmdline"} {
		seen[path] = c.AdminGet(path)
	}
	for where, text := range seen {
		if found := p.nest.Find(text); len(found) != 0 {
			t.Errorf("in %s there is %q", where, found)
		}
	}
	for _, text := range p.written {
		if len(p.nest.Find("a key "+text)) == 0 {
			t.Error("a key that is shown is not found")
		}
	}
	if !strings.Contains(seen["/config/"], "{file.") || !strings.Contains(seen["/token_sources/"], "crm") {
		t.Errorf("nothing is seen at all: %.200s, %.200s", seen["/config/"], seen["/token_sources/"])
	}
}

// TestAKeyRotatedOnDiskSignsTheNextRenewalWithoutAReload has a provider that knows
// both keys for a while, as whoever rotates one does it.
func TestAKeyRotatedOnDiskSignsTheNextRenewalWithoutAReload(t *testing.T) {
	t.Parallel()
	old, young := newECKey(t), newECKey(t)
	p := newProving(t, old.Public())
	p.lifetime = 5 * time.Second
	text, url := p.config(t, "grant client_credentials\n client_id crm\n refresh_at 20%\n private_key {file.{{dir}}/key.pem}")
	c := harness.Start(t, text, harness.File("key.pem", p.writeKey(t, old)))
	ask := func() {
		t.Helper()
		if resp, body := harness.Get(t, url); resp.StatusCode != http.StatusOK {
			t.Errorf("answered %d %.200q", resp.StatusCode, body)
		}
	}
	c.Eventually(time.Minute, "the old key has signed twice", func() bool { ask(); return p.signed(old.Public()) >= 2 })
	p.trust(old.Public(), young.Public())
	c.Write("key.pem", p.writeKey(t, young))
	c.Eventually(time.Minute, "the young key has signed", func() bool { ask(); return p.signed(young.Public()) >= 1 })
	p.trust(young.Public())
	before := p.signed(old.Public())
	c.Eventually(time.Minute, "the young key has signed again", func() bool { ask(); return p.signed(young.Public()) >= 3 })
	if got := p.refusals(); len(got) != 0 || p.signed(old.Public()) != before {
		t.Errorf("the provider refused %q, and the old key has signed %d times since it was gone", got, p.signed(old.Public())-before)
	}
	p.assertHidden(t, c)
}

// TestHalfAKeyIsToldWhileTheOldTokenIsServedAndIsCuredByItsOtherHalf writes a key as
// no one should, and as it happens.
func TestHalfAKeyIsToldWhileTheOldTokenIsServedAndIsCuredByItsOtherHalf(t *testing.T) {
	t.Parallel()
	for form, want := range map[string]string{"PEM": "private_key: the PEM is broken, or not whole", "JSON": "private_key: the JSON is broken, or not whole"} {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			old, young := newECKey(t), newECKey(t)
			p := newProving(t, old.Public(), young.Public())
			p.lifetime = 2 * time.Minute
			write := func(key *ecdsa.PrivateKey) string {
				text := p.writeKey(t, key)
				if form == "JSON" {
					text = string(mustJSON(map[string]string{"type": "service_account", "private_key_id": "k1", "private_key": text}))
				}
				return text
			}
			text, url := p.config(t, "grant client_credentials\n client_id crm\n refresh_at 5%\n private_key {file.{{dir}}/key}")
			whole := write(young)
			c := harness.Start(t, text, harness.File("key", write(old)))
			var answers []string
			ask := func() {
				t.Helper()
				resp, body := harness.Get(t, url)
				if answers = append(answers, body); resp.StatusCode != http.StatusOK {
					t.Errorf("answered %d %.200q", resp.StatusCode, body)
				}
			}
			c.Eventually(time.Minute, "there is a token", func() bool { return p.signed(old.Public()) == 1 })
			ask()
			c.Write("key", whole[:len(whole)*3/5])
			c.Eventually(time.Minute, "the log says what is wrong", func() bool { ask(); return strings.Contains(c.Log(), want) })
			if status := c.AdminGet("/token_sources/crm"); !strings.Contains(status, want) {
				t.Errorf("the status does not say it: %s", status)
			}
			for range 10 {
				ask()
			}
			if n := p.signed(old.Public()) + p.signed(young.Public()); n != 1 {
				t.Errorf("%d token requests", n)
			}
			c.Write("key", whole)
			c.Eventually(time.Minute, "the whole key has signed", func() bool { ask(); return p.signed(young.Public()) >= 1 })
			if got := p.refusals(); len(got) != 0 {
				t.Errorf("the provider refused %q", got)
			}
			p.assertHidden(t, c, answers...)
		})
	}
}

// TestAServiceAccountIsItsFile has a file as Google has it, and nothing else.
func TestAServiceAccountIsItsFile(t *testing.T) {
	t.Parallel()
	const account, scopes = "robot@project.iam.example", "https://www.example.org/auth/read https://www.example.org/auth/write"
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p := newProving(t, key.Public())
	p.check = func(form map[string]string, said assertion) error {
		_, subject := said.claims["sub"]
		_, client := form["client_assertion"]
		switch {
		case form["grant_type"] != "urn:ietf:params:oauth:grant-type:jwt-bearer" || client || form["client_id"] != "":
			return errors.New("another grant, or a client beside it")
		case said.claims["iss"] != account || subject || said.claims["aud"] != p.URL+"/token" || said.claims["scope"] != scopes:
			return fmt.Errorf("claims %v", said.claims)
		case said.header["kid"] != "0123456789" || said.header["typ"] != "JWT":
			return fmt.Errorf("header %v", said.header)
		}
		return nil
	}
	file := string(mustJSON(map[string]string{
		"type": "service_account", "project_id": "project", "private_key_id": "0123456789", "private_key": p.writeKey(t, key),
		"client_email": account, "client_id": "103", "token_uri": "https://elsewhere.example.org/token",
	}))
	text, url := p.config(t, "grant jwt_bearer\n private_key {file.{{dir}}/robot.json}\n scope "+scopes)
	c := harness.Start(t, text, harness.File("robot.json", file))
	resp, body := harness.Get(t, url)
	if resp.StatusCode != http.StatusOK {
		t.Errorf("answered %d %.200q; refused %q", resp.StatusCode, body, p.refusals())
	}
	if n := p.signed(key.Public()); n != 1 {
		t.Errorf("%d token requests", n)
	}
	p.assertHidden(t, c, body)
}

// TestAnAssertionThatIsRefusedAndRepeatedIsNotSeen has a provider that does not know
// the key, and says so with what it got.
func TestAnAssertionThatIsRefusedAndRepeatedIsNotSeen(t *testing.T) {
	t.Parallel()
	key := newECKey(t)
	p := newProving(t)
	text, url := p.config(t, "grant client_credentials\n client_id crm\n private_key {file.{{dir}}/key.pem}")
	c := harness.Start(t, text, harness.File("key.pem", p.writeKey(t, key)))
	resp, body := harness.Get(t, url)
	if resp.StatusCode != http.StatusBadGateway || len(p.refusals()) != 1 {
		t.Errorf("answered %d %.200q; refused %q", resp.StatusCode, body, p.refusals())
	}
	c.WaitLog("a signature by nobody I trust in [redacted]")
	p.assertHidden(t, c, body, fmt.Sprint(resp.Header))
}
