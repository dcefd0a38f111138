package injecttoken

import (
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddytoken/inject-token/refresher"
	"github.com/caddytoken/inject-token/tokensource"
)

// formedOf forms a token whose answer has exposed a host.
func formedOf(t *testing.T, headers []HeaderInjection, basic *BasicInjection) (*injection, *formed) {
	t.Helper()
	in, m := newInjection(headers, nil, basic)
	if m != nil {
		t.Fatal(m)
	}
	others := make([]*tokensource.Token, len(in.sources))
	for i, name := range in.sources {
		others[i] = &tokensource.Token{AccessToken: "token-of-" + name}
	}
	return in, in.form("crm", &tokensource.Token{AccessToken: "s3cr3t.token", Exposed: map[string]string{"host": "acme.example.org"}}, others)
}

func TestAFormatIsWhatItsPlaceholdersStandFor(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"key": "key-of-file\n", "lines": "one\ntwo\n", "empty": "", "braces": "{token}"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PARTNER_KEY", "key-of-env")
	for text, want := range map[string]string{
		"":                       "Bearer s3cr3t.token",
		"Token {token}":          "Token s3cr3t.token",
		"{token}{token}":         "s3cr3t.tokens3cr3t.token",
		"{response.host}":        "acme.example.org",
		"{source.partner}":       "token-of-partner",
		"{file." + dir + "/key}": "key-of-file",
		"{env.PARTNER_KEY}":      "key-of-env",
		"{token} {source.a}{env.PARTNER_KEY} {source.b}": "s3cr3t.token token-of-akey-of-env token-of-b",
		`\{"token": "{token}"}`:                          `{"token": "s3cr3t.token"}`,
		"{file." + dir + "/braces}":                      "{token}", // which is a value, and no placeholder
		// And what cannot be sent:
		"{token} {response.missing}": "! the answer of the provider of the token source crm has nothing for {response.missing}",
		"{file." + dir + "/lines}":   "! header: a placeholder of Authorization stands for a value with line breaks or other control characters",
		"{file." + dir + "/empty}":   "! header: the placeholder {file." + dir + "/empty} is empty or cannot be read",
		"{file." + dir + "/none}":    "! header: the placeholder {file." + dir + "/none} is empty or cannot be read",
		"{env.NOT_SET_ANYWHERE}":     "! header: the placeholder {env.NOT_SET_ANYWHERE} is empty or cannot be read",
	} {
		_, f := formedOf(t, []HeaderInjection{{Field: "Authorization", Format: text}}, nil)
		got := ""
		switch {
		case f.err != nil && f.values == nil:
			got = "! " + f.err.Error()
		case len(f.values) == 1 && len(f.values[0]) == 1:
			got = f.values[0][0]
		}
		if got != want {
			t.Errorf("%s stands for %q, want %q", text, got, want)
		}
	}
}

func TestBasicCredentialsHoldTheToken(t *testing.T) {
	t.Setenv("ROBOT", "robot")
	t.Setenv("COLON", "robot:x")
	for _, c := range []struct{ user, password, want string }{
		{"{token}", "x", "s3cr3t.token:x"},
		{"{token}", "", "s3cr3t.token:"},
		{"x", "{token}", "x:s3cr3t.token"},
		{"{env.ROBOT}/token", "{token}:{response.host}", "robot/token:s3cr3t.token:acme.example.org"},
	} {
		in, f := formedOf(t, nil, &BasicInjection{Username: c.user, Password: c.password})
		want := "Basic " + base64.StdEncoding.EncodeToString([]byte(c.want))
		if f.err != nil || in.fields[0] != "Authorization" || f.values[0][0] != want {
			t.Errorf("%s, %s: %v %q, %v; want %q", c.user, c.password, in.fields, f.values, f.err, want)
		}
		if got := f.hidden.in("you sent " + want); strings.Contains(got, want) {
			t.Errorf("%s, %s: an answer may repeat %s", c.user, c.password, got)
		}
	}
	if _, f := formedOf(t, nil, &BasicInjection{Username: "{env.COLON}", Password: "{token}"}); f.err == nil {
		t.Errorf("a user with a colon is sent: %q", f.values)
	}
}

func TestAllThatIsSecretOfWhatIsInjectedIsHidden(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("0123456789abcdef"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PARTNER_KEY", "key-of-partner")
	t.Setenv("REGION", "eu-central-1")
	_, f := formedOf(t, []HeaderInjection{
		{Field: "Authorization"}, {Field: "X-Partner", Format: "Bearer {source.partner}"}, {Field: "X-One", Format: "{file." + path + "}"},
		{Field: "X-Two", Format: "{env.PARTNER_KEY}"}, {Field: "X-Region", Format: "{env.REGION}"}, {Field: "X-Api-Key", Format: "literal-key"},
		{Field: "X-Api-Version", Format: "2026-11-25"}, {Field: "X-Host", Format: "{response.host}"},
	}, nil)
	if f.err != nil {
		t.Fatal(f.err)
	}
	for text, want := range map[string]string{
		"s3cr3t.token":                           "[redacted]",
		"token-of-partner":                       "[redacted]",
		"0123456789abcdef":                       "[redacted]",
		"key-of-partner":                         "[redacted]",
		"literal-key":                            "[redacted]",
		"eu-central-1":                           "eu-central-1",
		"2026-11-25":                             "2026-11-25",
		"acme.example.org":                       "acme.example.org",
		"both s3cr3t.token and token-of-partner": "both [redacted] and [redacted]",
		base64.StdEncoding.EncodeToString([]byte("x:token-of-partner")): "[redacted]",
		strings.Repeat("-", mostShown) + "key-of-partner":               strings.Repeat("-", mostShown) + "[redacted]",
	} {
		if got := f.hidden.in(text); got != want && !(strings.HasPrefix(text, "eDp") && !strings.Contains(got, text)) {
			t.Errorf("%.60q became %.60q, want %.60q", text, got, want)
		}
	}
}

// turning is a source whose provider issues another token each time.
type turning struct {
	mu  sync.Mutex // guards all
	all []string
}

func (s *turning) Obtain(context.Context, *tokensource.Token) (*tokensource.Token, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	token := s.all[0]
	if len(s.all) > 1 {
		s.all = s.all[1:]
	}
	return &tokensource.Token{AccessToken: token, Issued: time.Now(), Lifetime: time.Hour}, nil
}

// withOther returns a transport that injects the token of a second source as well.
func withOther(t testing.TB, other refresher.Source, up upstream) *Transport {
	t.Helper()
	transport := newTestTransport(t, &Transport{Headers: []HeaderInjection{{Field: "Authorization"}, {Field: "X-Other", Format: "{source.other}"}}}, up)
	r := refresher.New(refresher.Options{})
	detach := r.Attach(&refresher.Environment{Source: other, Log: zap.NewNop()})
	t.Cleanup(func() { detach(); r.Close(0) })
	transport.selection.always.others = []*use{newUse("other", r)}
	return transport
}

func TestTheTokenOfAnotherSourceIsItsNewest(t *testing.T) {
	var sent string
	transport := withOther(t, &turning{all: []string{"first", "second"}}, func(req *http.Request) (*http.Response, error) {
		sent = req.Header.Get("Authorization") + " " + req.Header.Get("X-Other")
		return ok(req)
	})
	send := func() string {
		t.Helper()
		if _, err := transport.RoundTrip(newTestRequest(t, http.MethodGet, "", nil)); err != nil {
			t.Fatal(err)
		}
		return sent
	}
	if got := send(); got != "Bearer s3cr3t.token first" {
		t.Errorf("sent %q", got)
	}
	if err := transport.selection.always.others[0].refresher.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := send(); got != "Bearer s3cr3t.token second" {
		t.Errorf("after a renewal of the other, sent %q", got)
	}
}

func TestARefusalMayBeTheOtherTokensFault(t *testing.T) {
	transport := withOther(t, &turning{all: []string{"revoked", "good"}}, func(req *http.Request) (*http.Response, error) {
		if req.Header.Get("X-Other") == "revoked" {
			return &http.Response{StatusCode: http.StatusUnauthorized, Header: http.Header{}, Body: http.NoBody}, nil
		}
		return ok(req)
	})
	resp, err := transport.RoundTrip(newTestRequest(t, http.MethodGet, "", nil))
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("answered %v, %v", resp, err)
	}
}

func TestWithoutTheOtherTokenNothingIsSent(t *testing.T) {
	for unavailable, want := range map[string]int{"": http.StatusServiceUnavailable, "pass": http.StatusOK} {
		transport := withOther(t, failing{&tokensource.Error{Reason: "down"}}, func(req *http.Request) (*http.Response, error) {
			if len(req.Header["Authorization"])+len(req.Header["X-Other"]) > 0 {
				t.Errorf("unavailable %s: half of it was sent: %v", unavailable, req.Header)
			}
			return ok(req)
		})
		transport.Unavailable = unavailable
		resp, err := transport.RoundTrip(newTestRequest(t, http.MethodGet, "", nil))
		if err != nil || resp.StatusCode != want {
			t.Errorf("unavailable %s: answered %v, %v", unavailable, resp, err)
		}
		if body, _ := io.ReadAll(resp.Body); want != http.StatusOK && !strings.Contains(string(body), "the token source other ") {
			t.Errorf("the answer does not say which source it is: %s", body)
		}
	}
}

type failing struct{ err *tokensource.Error }

func (f failing) Obtain(context.Context, *tokensource.Token) (*tokensource.Token, error) {
	return nil, f.err
}

func TestAFileIsLookedAtAgainWithoutANewToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	var sent string
	transport := newTestTransport(t, &Transport{Headers: []HeaderInjection{{Field: "Authorization"}, {Field: "X-Key", Format: "{file." + path + "}"}}},
		func(req *http.Request) (*http.Response, error) { sent = req.Header.Get("X-Key"); return ok(req) })
	status := func() int {
		t.Helper()
		sent = ""
		resp, err := transport.RoundTrip(newTestRequest(t, http.MethodGet, "", nil))
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode
	}
	for _, text := range []string{"one", "two", "", "three"} {
		write(text)
		want := http.StatusOK
		if text == "" {
			want = http.StatusBadGateway
		}
		deadline := time.Now().Add(10 * time.Second)
		for got := status(); got != want || sent != text; got = status() {
			if time.Now().After(deadline) {
				t.Fatalf("the file holds %q, and %d %q is sent", text, got, sent)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

func TestWhatGoesWithATokenCostsARequestNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	req := newTestRequest(t, http.MethodGet, "a=1&b=2", nil)
	req.Header = callerHeader()
	plain := newTestTransport(t, &Transport{Headers: []HeaderInjection{{Field: "Authorization"}, {Field: "X-Other"}}}, ok)
	full := withOther(t, &turning{all: []string{"other"}}, ok)
	full.injection.changes = true // as if there were a file, which is read each second
	allocations := func(rt http.RoundTripper) float64 {
		return testing.AllocsPerRun(200, func() {
			if _, err := rt.RoundTrip(req); err != nil {
				t.Fatal(err)
			}
		})
	}
	if want, got := allocations(plain), allocations(full); got > want {
		t.Errorf("%v allocations, want %v", got, want)
	}
}

// TestValuesThatChangeAreWholeInEachRequest has requests while both tokens change.
func TestValuesThatChangeAreWholeInEachRequest(t *testing.T) {
	other := &turning{}
	for range 100 {
		other.all = append(other.all, strings.Repeat("x", len(other.all)+1))
	}
	transport := withOther(t, other, func(req *http.Request) (*http.Response, error) {
		if req.Header.Get("Authorization") != "Bearer s3cr3t.token" || strings.Trim(req.Header.Get("X-Other"), "x") != "" || req.Header.Get("X-Other") == "" {
			t.Errorf("sent %v", req.Header)
		}
		return ok(req)
	})
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 200 {
				if _, err := transport.RoundTrip(newTestRequest(t, http.MethodGet, "", nil)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 50 {
		if err := transport.selection.always.others[0].refresher.Refresh(t.Context()); err != nil {
			t.Error(err)
		}
	}
	group.Wait()
}
