package caddy_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddytoken/inject-token/caddy_test/internal/canary"
	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// checked is a folder with a Caddyfile, for which no Caddy runs.
type checked struct {
	t        *testing.T
	dir      string
	provider *provider.Provider
}

func newChecked(t *testing.T) *checked {
	p := provider.New(t, provider.Dialect{})
	c := &checked{t: t, dir: t.TempDir(), provider: p}
	harness.WriteFile(t, c.dir, "secret", provider.ClientSecret)
	harness.WriteFile(t, c.dir, "wrong-secret", "not-the-secret-9876543210")
	return c
}

// caddyfile writes one with sources and a site that uses none of them.
func (c *checked) caddyfile(sources string) {
	c.t.Helper()
	sources = strings.ReplaceAll(sources, "{{dir}}", c.dir)
	harness.WriteFile(c.t, c.dir, "Caddyfile", formatted("{\nadmin off\ntoken_sources {\n"+sources+"}\n}\n"))
}

// formatted is a Caddyfile as `caddy fmt` writes it: Caddy warns of others.
func formatted(text string) string {
	var out strings.Builder
	depth := 0
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if line == "}" {
			depth--
		}
		out.WriteString(strings.Repeat("\t", depth) + line + "\n")
		if strings.HasSuffix(line, "{") {
			depth++
		}
	}
	return out.String()
}

func (c *checked) source(name, options string) string {
	return strings.Replace(crmSource(c.provider, options), "source crm", "source "+name, 1) + "\n"
}

// check runs the command and looks for what must not be seen.
func (c *checked) check(args ...string) (output string, code int) {
	c.t.Helper()
	output, code = harness.Run(c.t, c.dir, append([]string{"token-source", "check"}, args...)...)
	nest := new(canary.Nest)
	for _, token := range c.provider.IssuedTokens() {
		_, random, _ := strings.Cut(token, "-")
		nest.Add("an issued token", random)
	}
	if found := nest.Find(output); len(found) > 0 || strings.Contains(output, provider.ClientSecret) || strings.Contains(output, "not-the-secret-9876543210") {
		c.t.Errorf("%q or the client's secret stand in %s", found, output)
	}
	return output, code
}

func TestCheckObtainsATokenAndKeepsNothing(t *testing.T) {
	t.Parallel()
	c := newChecked(t)
	c.caddyfile(c.source("crm", "scope read") + c.source("batch", ""))
	output, code := c.check()
	assertSaid(t, output, code, 0, "crm", "batch")
	if n := c.provider.Count(); n != 2 {
		t.Errorf("%d token requests for two sources", n)
	}
	output, code = c.check("batch", "--config", filepath.Join(c.dir, "Caddyfile"), "--adapter", "caddyfile")
	assertSaid(t, output, code, 0, "batch")
	if n := c.provider.Count(); n != 3 || strings.Contains(output, "crm") {
		t.Errorf("%d token requests after one source more:\n%s", n, output)
	}
	_ = filepath.WalkDir(c.dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && strings.Contains(path, "token_sources") {
			t.Errorf("it has written %s", path)
		}
		return err
	})
	c.provider.AssertStrict()
}

func TestCheckExplainsEachUsualFailure(t *testing.T) {
	t.Parallel()
	answer := func(status int, body string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if status == http.StatusFound {
				w.Header().Set("Location", "https://login.example.org/")
			}
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}))
		closeAtEnd(t, s)
		return "token_url " + s.URL + "/token"
	}
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	closeAtEnd(t, secure)
	for name, c := range map[string]struct {
		options string // of the source, in the place of those with the same name
		want    int
		words   []string
	}{
		"the secret is wrong":         {"client_secret {file.{{dir}}/wrong-secret}", 4, []string{"invalid_client", "client_id", "client_secret"}},
		"there is no file":            {"client_secret {file.{{dir}}/none}", 4, []string{"client_secret", "/none"}},
		"there is no variable":        {"client_secret {env.XYZZY_SECRET}", 4, []string{"client_secret", "XYZZY_SECRET"}},
		"nobody listens":              {"token_url http://127.0.0.1:" + itoa(harness.Port(t)) + "/token", 4, []string{"connection refused"}},
		"the path is wrong":           {answer(404, "<html>Not found"), 4, []string{"404", "token_url"}},
		"a page in the place of JSON": {answer(200, "<!doctype html><title>Log in</title>"), 4, []string{"HTML", "JSON"}},
		"it redirects":                {answer(302, ""), 4, []string{"redirect", "login.example.org"}},
		"the certificate is unknown":  {"token_url " + secure.URL + "/token", 4, []string{"certificate"}},
		"TLS where there is none":     {"token_url " + strings.Replace(answer(200, ""), "token_url http:", "https:", 1), 4, []string{"TLS"}},
		"the scope is wrong":          {answer(400, `{"error":"invalid_scope","error_description":"unknown: raed"}`), 4, []string{"invalid_scope", "scope", "unknown: raed"}},
		"the grant is not allowed":    {answer(400, `{"error":"unauthorized_client"}`), 4, []string{"unauthorized_client", "grant"}},
		"the grant is unknown":        {answer(400, `{"error":"unsupported_grant_type"}`), 4, []string{"unsupported_grant_type", "grant"}},
		"a person's password":         {"grant password\n username peter\n password {file.{{dir}}/wrong-secret}", 4, []string{"invalid_grant", "password"}},
		"the provider is ill":         {answer(503, ""), 4, []string{"503"}},
		"too many requests":           {answer(429, ""), 4, []string{"429"}},
		"an answer without a token":   {answer(200, `{"token":"x"}`), 4, []string{"access_token"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newChecked(t)
			w.caddyfile(w.source("good", "") + replaceOptions(w.source("crm", ""), c.options))
			output, code := w.check("crm")
			assertSaid(t, output, code, c.want, append(c.words, "crm")...)
			assertSentences(t, output)
			if w.provider.Count() > 1 {
				t.Errorf("%d token requests", w.provider.Count())
			}
			// One that fails does not hide one that works.
			output, code = w.check()
			assertSaid(t, output, code, c.want, "crm", "good")
		})
	}
}

// replaceOptions puts options into a source, in the place of those with the
// same names.
func replaceOptions(source, options string) string {
	var kept []string
	written := make(map[string]bool)
	for line := range strings.SplitSeq(options, "\n") {
		written[strings.Fields(line)[0]] = true
	}
	for line := range strings.Lines(source) {
		if fields := strings.Fields(line); len(fields) == 0 || !written[fields[0]] {
			kept = append(kept, line)
		}
	}
	head, rest := kept[0], strings.Join(kept[1:], "")
	return head + options + "\n" + rest
}

// assertSentences holds that what a person reads was written for them.
func assertSentences(t *testing.T, output string) {
	t.Helper()
	for _, raw := range []string{"panic", "goroutine", "%!", "<nil>", "0x", "&{", "map[", "*tokensource", "Usage:", "Post \"", "Get \""} {
		if strings.Contains(output, raw) {
			t.Errorf("%q is not written for a person:\n%s", raw, output)
		}
	}
}

// TestCheckSpendsNoRefreshTokenAndNeedsNoPerson has sources that it must not
// ask for a token.
func TestCheckSpendsNoRefreshTokenAndNeedsNoPerson(t *testing.T) {
	t.Parallel()
	c := newChecked(t)
	c.provider.Set(func(k *provider.Knobs) { k.Rotate = true })
	seed := c.provider.IssueRefreshToken()
	harness.WriteFile(t, c.dir, "seed", seed)
	seeded := strings.Replace(c.source("seeded", "refresh_token {file.{{dir}}/seed}"), "client_credentials", "refresh_token", 1)
	c.caddyfile(seeded)
	output, code := c.check()
	assertSaid(t, output, code, 0, "seeded", "refresh token")
	for _, grant := range []string{"authorization_code", "device_code"} {
		c.caddyfile(seeded + personSource(c.provider, "crm", grant, ""))
		output, code = c.check()
		assertSaid(t, output, code, 0, "seeded", "crm", "caddy token-source authorize crm")
		output, code = c.check("seeded")
		assertSaid(t, output, code, 0, "seeded")
	}
	if n := c.provider.Count(); n != 0 || len(c.provider.UserCodes()) != 0 || len(c.provider.Authorizations()) != 0 {
		t.Errorf("the provider was asked: %d token requests, %d device codes", n, len(c.provider.UserCodes()))
	}
	if code := c.provider.Spend(seed); code != "" {
		t.Errorf("the refresh token is not what it was: %s", code)
	}
}

func TestCheckFindsWhatIsMissingForThoseThatAreNotAsked(t *testing.T) {
	t.Parallel()
	c := newChecked(t)
	seeded := strings.Replace(c.source("seeded", "refresh_token {file.{{dir}}/none}"), "client_credentials", "refresh_token", 1)
	c.caddyfile(seeded)
	output, code := c.check()
	assertSaid(t, output, code, 4, "seeded", "refresh_token", "/none")
	c.caddyfile(replaceOptions(personSource(c.provider, "crm", "authorization_code", ""), "client_secret {file.{{dir}}/none}"))
	output, code = c.check()
	assertSaid(t, output, code, 4, "crm", "client_secret", "/none")
}

func TestCheckAsksForTheMetadataOfAnIssuer(t *testing.T) {
	t.Parallel()
	c := newChecked(t)
	var document atomic.Value
	document.Store("")
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/.well-known/openid-configuration" || document.Load() == "" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, document.Load())
	}))
	closeAtEnd(t, issuer)
	metadata := func(issuer string, pkce string) string {
		return fmt.Sprintf(`{"issuer":%q,"token_endpoint":%q,"authorization_endpoint":%q,"code_challenge_methods_supported":[%q]}`,
			issuer, c.provider.TokenURL(), c.provider.AuthorizeURL(), pkce)
	}
	source := func(grant string) string {
		return fmt.Sprintf("source crm {\n grant %s\n issuer %s\n client_id %s\n client_secret {file.{{dir}}/secret}\n}\n", grant, issuer.URL, provider.ClientID)
	}
	for _, step := range []struct {
		grant, document string
		want            int
		words           []string
	}{
		{"client_credentials", metadata(issuer.URL, "S256"), 0, nil},
		{"client_credentials", "", 4, []string{"issuer", "404"}},
		{"client_credentials", metadata(issuer.URL+"/", "S256"), 4, []string{"issuer"}},
		{"client_credentials", "<html>", 4, []string{"issuer"}},
		{"authorization_code", metadata(issuer.URL, "S256"), 0, []string{"caddy token-source authorize crm"}},
		{"authorization_code", metadata(issuer.URL, "plain"), 4, []string{"S256"}},
		{"authorization_code", metadata("https://example.org", "S256"), 4, []string{"issuer", "example.org"}},
		{"device_code", metadata(issuer.URL, "S256"), 4, []string{"device_url"}},
	} {
		document.Store(step.document)
		c.caddyfile(source(step.grant))
		output, code := c.check()
		t.Logf("%s, %s", step.grant, step.document)
		assertSaid(t, output, code, step.want, append(step.words, "crm")...)
		assertSentences(t, output)
	}
	if n := c.provider.Count(); n != 1 {
		t.Errorf("%d token requests, want the one of client_credentials", n)
	}
}

func TestCheckOfWhatIsNotThereIsWrongUse(t *testing.T) {
	t.Parallel()
	c := newChecked(t)
	output, code := c.check() // no Caddyfile
	assertSaid(t, output, code, 1, "no Caddyfile", "--config")
	output, code = c.check("--config", "none.json")
	assertSaid(t, output, code, 1, "none.json")
	c.caddyfile(c.source("crm", ""))
	output, code = c.check("cmr")
	assertSaid(t, output, code, 1, "cmr", "did you mean", "crm")
	output, code = c.check("crm", "batch")
	assertSaid(t, output, code, 1)
	output, code = c.check("--config", "Caddyfile", "--adapter", "xyzzy")
	assertSaid(t, output, code, 1, "xyzzy")
	c.caddyfile(c.source("crm", "client_secrt x"))
	output, code = c.check()
	assertSaid(t, output, code, 1, "client_secrt", "client_secret", "Caddyfile:")
	c.caddyfile(strings.Replace(c.source("crm", ""), "token_url", "token_url ftp://example.org #", 1))
	output, code = c.check()
	assertSaid(t, output, code, 1, "token_url", "https")
	harness.WriteFile(t, c.dir, "Caddyfile", "localhost {\n}\n")
	output, code = c.check()
	assertSaid(t, output, code, 1, "no token sources")
	harness.WriteFile(t, c.dir, "Caddyfile", "localhost {\n")
	if _, code = c.check(); code != 1 {
		t.Errorf("a Caddyfile that is cut off: %d", code)
	}
	if n := c.provider.Count(); n != 0 {
		t.Errorf("%d token requests", n)
	}
}

func TestCheckReadsJSON(t *testing.T) {
	t.Parallel()
	c := newChecked(t)
	c.caddyfile(c.source("crm", ""))
	harness.WriteFile(t, c.dir, "caddy.json", harness.Output(t, c.dir, "adapt", "--config", "Caddyfile"))
	if err := os.Remove(filepath.Join(c.dir, "Caddyfile")); err != nil {
		t.Fatal(err)
	}
	output, code := c.check("--config", "caddy.json")
	assertSaid(t, output, code, 0, "crm")
	if n := c.provider.Count(); n != 1 {
		t.Errorf("%d token requests", n)
	}
}

func TestAKeyIsNewEachTime(t *testing.T) {
	t.Parallel()
	dir, keys := t.TempDir(), make(map[string]bool)
	for range 2 {
		text := strings.TrimSuffix(harness.Output(t, dir, "token-source", "keygen"), "\n")
		if key, err := base64.StdEncoding.DecodeString(text); err != nil || len(key) != 32 {
			t.Errorf("%q is no key of 32 bytes: %v", text, err)
		}
		keys[text] = true
	}
	if len(keys) != 2 {
		t.Error("a key comes twice")
	}
	if output, code := harness.Run(t, dir, "token-source", "keygen", "x"); code != 1 {
		t.Errorf("an argument too many ended with %d:\n%s", code, output)
	}
}
