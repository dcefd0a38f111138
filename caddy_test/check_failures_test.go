package caddy_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
)

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
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // the end of the client is seen after it
		<-r.Context().Done()
	}))
	closeAtEnd(t, silent)
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
		"it hangs":                    {"token_url " + silent.URL + "/token\n timeout 1s", 4, []string{"in time"}},
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
			if name == "the secret is wrong" { // it does not hide one that works
				output, code = w.check()
				assertSaid(t, output, code, c.want, "crm", "good: ok")
			}
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

// addressParameters holds what stands in an address by chance, and says nothing.
var addressParameters = regexp.MustCompile(`\?\S*`)

// assertSentences holds that what a person reads was written for them.
func assertSentences(t *testing.T, output string) {
	t.Helper()
	output = addressParameters.ReplaceAllString(output, "?…")
	for _, raw := range []string{"panic", "goroutine", "%!", "<nil>", "0x", "&{", "map[", "*tokensource", "Usage:", "Post \"", "Get \""} {
		if strings.Contains(output, raw) {
			t.Errorf("%q is not written for a person:\n%s", raw, output)
		}
	}
}
