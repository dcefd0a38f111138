package tokensource

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// desk is a token endpoint without a network, with a clock of its own.
type desk struct {
	mu       sync.Mutex // guards what follows
	ahead    time.Duration
	undated  bool
	requests []deskRequest
	answer   func(n int, r deskRequest) *http.Response // n counts from 0
}

// deskRequest is a form that arrived.
type deskRequest struct {
	method, url string
	header      http.Header
	form        url.Values
}

const (
	deskURL    = "https://auth.example.org/token"
	deskIssued = `{"access_token":"at","token_type":"Bearer","expires_in":3600}`
)

// newDesk answers the first request with the first answer, and all that follow the
// last one with the last.
func newDesk(answers ...*http.Response) *desk {
	texts := make([]string, len(answers))
	for i, answer := range answers {
		text, _ := io.ReadAll(answer.Body)
		texts[i] = string(text)
	}
	return &desk{answer: func(n int, _ deskRequest) *http.Response {
		n = min(n, len(answers)-1)
		again := madeUp(answers[n].StatusCode, texts[n])
		again.Header = answers[n].Header.Clone()
		return again
	}}
}

// now is the time by its clock.
func (d *desk) now() time.Time { return time.Now().Add(d.ahead) }

func (d *desk) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
		r.Body.Close()
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	got := deskRequest{r.Method, r.URL.String(), r.Header.Clone(), form}
	d.requests = append(d.requests, got)
	resp := d.answer(len(d.requests)-1, got)
	if !d.undated && resp.Header.Get("Date") == "" {
		resp.Header.Set("Date", d.now().UTC().Format(http.TimeFormat))
	}
	return resp, nil
}

// arrived returns all requests until now.
func (d *desk) arrived() []deskRequest {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.requests)
}

// last returns the request that arrived last.
func (d *desk) last(t testing.TB) deskRequest {
	t.Helper()
	all := d.arrived()
	if len(all) == 0 {
		t.Fatal("no request arrived")
	}
	return all[len(all)-1]
}

// config is a client that proves itself with a private key.
func (d *desk) config(key string, changes ...func(*Config)) Config {
	c := Config{Grant: "client_credentials", TokenURL: deskURL, ClientID: "crm", PrivateKey: key, Transport: d, UserAgent: agent}
	for _, change := range changes {
		change(&c)
	}
	return c
}

func claim(name, value string) func(*Config) {
	return func(c *Config) { c.Claims = append(c.Claims, Claim{name, value}) }
}

func grant(name string) func(*Config) { return func(c *Config) { c.Grant = name } }

// sameJSON says whether two values are the same in JSON.
func sameJSON(a, b any) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return string(x) == string(y)
}

// without returns a claim set less the claims that are new each time, of which it
// looks whether they are right.
func without(t testing.TB, claims map[string]any, sent time.Time) map[string]any {
	t.Helper()
	rest := make(map[string]any)
	for name, value := range claims {
		rest[name] = value
	}
	seconds := func(name string) time.Time {
		n, ok := claims[name].(float64)
		if !ok || n != float64(int64(n)) {
			t.Errorf("%s is %v, and no whole number", name, claims[name])
		}
		delete(rest, name)
		return time.Unix(int64(n), 0)
	}
	iat, nbf, exp := seconds("iat"), seconds("nbf"), seconds("exp")
	if iat.After(sent) || sent.Sub(iat) > 20*time.Second || !nbf.Equal(iat) {
		t.Errorf("issued %v, not before %v, and sent %v", iat, nbf, sent)
	}
	if left := exp.Sub(sent); exp.Sub(iat) > time.Minute || left < 30*time.Second {
		t.Errorf("it ends %v after it was sent, and %v after it was issued", left, exp.Sub(iat))
	}
	if jti, _ := claims["jti"].(string); len(jti) < 22 { // 128 bits
		t.Errorf("jti is %q", jti)
	}
	delete(rest, "jti")
	return rest
}

// record returns what a handler answers.
func record(handler http.HandlerFunc) *http.Response {
	w := httptest.NewRecorder()
	handler(w, httptest.NewRequest(http.MethodPost, deskURL, nil))
	return w.Result()
}

// silent fails where any text that is seen of an error holds a secret, whole or in
// part.
func silent(t testing.TB, what string, e *Error, secrets ...string) {
	t.Helper()
	text := everyText(e)
	for _, secret := range secrets {
		for i := 0; i+16 <= len(secret); i += 8 {
			if piece := secret[i : i+16]; strings.Contains(text, piece) && !told.MatchString(piece) {
				t.Errorf("%s: %q is shown: %s", what, piece, e)
				break
			}
		}
	}
}
