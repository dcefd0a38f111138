package caddy_test

import (
	"encoding/base64"
	"fmt"
	"net"
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

func TestCheckNamesWhatIsExposedAndNotThere(t *testing.T) {
	t.Parallel()
	c := newChecked(t)
	c.caddyfile(c.source("crm", "token_response {\n expose kind token_type\n expose tenant data.tenant\n}"))
	output, code := c.check()
	assertSaid(t, output, code, 4, "expose tenant data.tenant")
	c.caddyfile(c.source("crm", "token_response {\n expose kind token_type\n}"))
	output, code = c.check()
	assertSaid(t, output, code, 0, "crm: ok")
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

// TestCheckOpensNothing has a configuration whose site cannot be served here,
// since its port is taken.
func TestCheckOpensNothing(t *testing.T) {
	t.Parallel()
	c := newChecked(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	site := "http://" + taken.Addr().String() + " {\n\tbind 127.0.0.1\n\tlog {\n\t\toutput file " + c.dir + "/access.log\n\t}\n\ttoken_callback /callback\n\tinject_token crm " + c.provider.API + "\n}\n"
	c.caddyfile(c.source("crm", ""))
	text, err := os.ReadFile(filepath.Join(c.dir, "Caddyfile"))
	if err != nil {
		t.Fatal(err)
	}
	harness.WriteFile(t, c.dir, "Caddyfile", string(text)+"\n"+site)
	output, code := c.check()
	assertSaid(t, output, code, 0, "crm")
	if _, err := os.Stat(filepath.Join(c.dir, "access.log")); err == nil {
		t.Error("it has opened the site's log")
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
