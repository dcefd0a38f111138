package caddy_test

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
)

// interopLifetime is how many seconds tokens live. They are renewed after a small
// part of that (renewedEarly), so that no machine is too slow for them.
const (
	interopLifetime = 60
	renewedEarly    = "refresh_at 5%\n"
	renewedEarlier  = "refresh_at 1%\n" // at zitadel's, where they live for five minutes
)

// TestInterop drives each cell of the table that docs/interop.md shows: servers
// that others have written, each in a process of its own, and a real Caddy for
// each row.
func TestInterop(t *testing.T) {
	t.Parallel()
	w := &interopWorld{t: t, keys: newInteropKeys(t), sites: make(map[string]string)}
	servers := theServers()
	for _, s := range servers {
		for _, o := range theOffers[s.word] {
			w.sites[s.word+" "+o.way] = "http://127.0.0.1:" + itoa(harness.Port(t))
		}
	}
	t.Run("document", func(t *testing.T) { assertInteropDocument(t, servers) })
	var starting sync.WaitGroup
	for _, s := range servers {
		starting.Go(func() { s.host = s.start(w) })
	}
	starting.Wait()
	for _, s := range servers {
		if s.host == "" {
			t.Fatal("a server has not started")
		}
		for _, o := range theOffers[s.word] {
			if o.absent == "" {
				t.Run(s.word+"/"+o.way, func(t *testing.T) {
					t.Parallel()
					newInteropRow(t, w, s, o).run()
				})
			}
		}
	}
}

// interopRow is a row of the table as it is driven.
type interopRow struct {
	t      *testing.T
	world  *interopWorld
	server *interopServer
	offer  offer
	way    *interopWay

	dir     string // its files; those of the same names in dir/wrong are wrong
	site    string // its address
	base    string // of the server
	subject string // a token that is to be exchanged
	api     *interopAPI
	wrongly *tokenRecorder // stands before the server where the wrong credential goes
	c       *harness.Caddy
}

func newInteropRow(t *testing.T, w *interopWorld, s *interopServer, o offer) *interopRow {
	t.Helper()
	r := &interopRow{t: t, world: w, server: s, offer: o, way: wayOf(o.way), dir: t.TempDir(), site: w.sites[s.word+" "+o.way]}
	r.api = newInteropAPI(t, s, r.way.binding, w.keys)
	r.base = "http://" + s.host
	switch r.way.binding {
	case withCertificate:
		r.base = s.tls
	case withFreshProof:
		r.base = s.nonce
	}
	r.wrongly = newTokenRecorder(t, strings.TrimPrefix(r.base, "http://"))
	r.subject = r.newSubject()
	r.writeFiles()
	return r
}

// run checks one column after the other.
func (r *interopRow) run() {
	r.start()
	r.authorize("crm")
	r.assertServed()
	for column, check := range map[column]func(){theWrongCredential: r.assertWrongRefused} {
		if r.has(column) {
			check()
		}
	}
	if r.has(theRenewal) {
		r.assertRenewed()
	}
	if r.has(theRotation) {
		r.assertRotated()
	}
	if r.has(theRevocation) {
		r.assertRevoked()
	}
	if r.hasWrong() {
		r.assertNotHammered()
	}
}

// has says whether the server has what a column is about.
func (r *interopRow) has(c column) bool { return r.offer.none[c] == "" }

// writeFiles writes what a source reads, and the same with what is wrong.
func (r *interopRow) writeFiles() {
	const somebodyElses = "of-somebody-else-0123456789-abcdef"
	k := r.world.keys
	right := map[string]string{"client-secret": r.offer.secret, "password": r.server.password(), "subject-token": r.subject, "ca.pem": k.ca.pem()}
	wrong := map[string]string{"client-secret": somebodyElses, "password": somebodyElses, "subject-token": somebodyElses, "refresh-token": somebodyElses}
	if r.way.word == "refresh" {
		right["refresh-token"] = r.seed()
	}
	if r.way.alg != "" {
		right["key.pem"], wrong["key.pem"] = privatePEM(r.t, k.signer[r.way.alg]), privatePEM(r.t, k.forger[r.way.alg])
	}
	right["login-secret"] = loginSecrets[r.server.word]
	if r.way.word == "code-assertion" {
		right["assertion"], wrong["assertion"] = r.assertion(k.signer), r.assertion(k.forger)
	}
	if r.way.binding == withCertificate {
		client := k.client
		if r.way.word == "cc-self-signed" {
			client = k.selfSigned
		}
		right["client.pem"], right["client-key.pem"] = client.pem(), client.keyInPEM(r.t)
		wrong["client.pem"], wrong["client-key.pem"] = k.stranger.pem(), k.stranger.keyInPEM(r.t)
	}
	if err := os.MkdirAll(filepath.Join(r.dir, "wrong"), 0o700); err != nil {
		r.t.Fatal(err)
	}
	for name, text := range right {
		harness.WriteFile(r.t, r.dir, name, text)
		if file := r.way.wrong.file; name == file || file == "client.pem" && name == "client-key.pem" {
			text = wrong[name]
		}
		harness.WriteFile(r.t, r.dir, filepath.Join("wrong", name), text)
	}
}

// start starts a Caddy whose tokens are renewed soon.
func (r *interopRow) start() {
	r.t.Helper()
	r.c = harness.Start(r.t, r.caddyfile(r.renewedSoon()))
}

// caddyfile has the row's source, and one that differs in what is wrong.
func (r *interopRow) caddyfile(when string) string {
	sources := "source crm {\n" + r.source(r.base, r.dir) + when + "}\n"
	if r.way.login != "" {
		sources += "source login {\n" + written(r.way.login, r.value(r.base, r.dir)) + "}\n"
	}
	site := "inject_token crm " + r.upstream()
	if r.hasWrong() {
		base := r.wrongly.URL
		if r.way.binding == withCertificate {
			base = r.base // nobody can stand between
		}
		sources += "source wrong {\n" + r.source(base, filepath.Join(r.dir, "wrong")) + "}\n"
		site = "inject_token /wrong wrong " + r.upstream() + "\n" + site
	}
	if r.way.person {
		site = "token_callback /callback\n" + site
	}
	return fmt.Sprintf("{\n{{globals}}\ntoken_sources {\n%s}\n}\n%s {\nbind 127.0.0.1\n%s\n}\n", sources, r.site, site)
}

// hasWrong says whether there is a source with a wrong credential.
func (r *interopRow) hasWrong() bool { return r.has(theWrongCredential) && !r.way.caller }

// upstream is the API, and how it is reached.
func (r *interopRow) upstream() string {
	upstream := r.api.URL
	if transport := r.way.transport(); transport != "" {
		upstream += " {\n" + strings.ReplaceAll(transport, "{{dir}}", r.dir) + "}"
	}
	return upstream
}

func (r *interopRow) renewedSoon() string {
	if r.server.word == "zitadel" {
		return renewedEarlier
	}
	return renewedEarly
}

// source are the options of the row's source, at the server or what stands before
// it, with the files of a folder.
func (r *interopRow) source(base, dir string) string {
	return r.offer.source(r.way, r.value(base, dir))
}

// value is what stands for {{NAME}} in the options of the row's sources.
func (r *interopRow) value(base, dir string) func(name string) string {
	return func(name string) string {
		switch name {
		case "dir":
			return dir
		case "client":
			return r.offer.client
		case "scope":
			return r.offer.scope
		case "redirect":
			return r.site + "/callback"
		case "issuer":
			return r.issuer()
		}
		if text, written := r.offer.names[name]; written {
			return strings.ReplaceAll(text, "{{issuer}}", r.issuer())
		}
		return r.server.url(base, name)
	}
}

// issuer is the server's own name.
func (r *interopRow) issuer() string { return "http://" + r.server.host + r.server.paths["issuer"] }

var placeholder = regexp.MustCompile(`\{\{[a-z]+\}\}`)

// source are the options of a way at a server.
func (o offer) source(w *interopWay, value func(name string) string) string {
	return written(w.source+o.extra, value)
}

// written replaces {{…}} in options. A line of which one is nothing is left out.
func written(options string, value func(name string) string) string {
	var out strings.Builder
	for line := range strings.Lines(options) {
		there := true
		line = placeholder.ReplaceAllStringFunc(line, func(found string) string {
			text := value(strings.Trim(found, "{}"))
			there = there && text != ""
			return text
		})
		if there {
			out.WriteString(line)
		}
	}
	return out.String()
}

// get sends a request of a caller.
func (r *interopRow) get() (*http.Response, string) {
	r.t.Helper()
	return r.getWith(r.subject)
}

// getWith sends a request of a caller with a token of its own.
func (r *interopRow) getWith(subject string) (*http.Response, string) {
	r.t.Helper()
	req, err := http.NewRequest(http.MethodGet, r.site, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	if r.way.caller && subject != "" {
		req.Header.Set("Authorization", "Bearer "+subject)
	}
	return harness.Do(r.t, req)
}

// assertServed wants a request to be served, and the token to be the one that was
// asked for.
func (r *interopRow) assertServed() {
	r.t.Helper()
	if resp, body := r.get(); resp.StatusCode != http.StatusOK || !strings.HasPrefix(body, "good: ") {
		_, refused := r.api.seen()
		r.t.Fatalf("answered %d %q; the API has refused: %q", resp.StatusCode, body, refused)
	}
}

// assertRenewed wants two renewals in a row, of which callers notice nothing.
func (r *interopRow) assertRenewed() {
	r.t.Helper()
	first := ""
	if !r.way.caller {
		first = r.refreshToken()
	}
	overtaken := 0
	r.c.Eventually(time.Minute, "three tokens were good, one after the other", func() bool {
		resp, body := r.get()
		if resp.StatusCode == http.StatusUnauthorized && first != "" {
			overtaken++ // a refresh has ended the token of a request that was on its way
			return false
		}
		if resp.StatusCode != http.StatusOK {
			r.t.Fatalf("answered %d %q", resp.StatusCode, body)
		}
		tokens, _ := r.api.seen()
		return len(tokens) >= 3
	})
	if renewals := r.c.LogCount("token_sources.crm", "token renewed"); overtaken > renewals {
		r.t.Errorf("%d requests were refused with %d renewals", overtaken, renewals)
	}
	for _, line := range r.c.LogLines() {
		if line["logger"] == "token_sources.crm" && (line["level"] == "warn" || line["level"] == "error") && line["msg"] != needsAPerson {
			r.t.Errorf("the log says: %v", line)
		}
	}
	if r.has(theRotation) && (first == "" || r.refreshToken() == first) {
		r.t.Error("the refresh token did not change")
	}
}

// assertRevoked wants the command to end a token at its server. It is to be renewed
// late from here on, so that it is not renewed meanwhile.
func (r *interopRow) assertRevoked() {
	r.t.Helper()
	if err := r.c.Reload(r.caddyfile("")); err != nil {
		r.t.Fatal(err)
	}
	var token string
	r.c.Eventually(time.Minute, "callers are served with what is stored", func() bool {
		r.assertServed()
		token = r.stored().AccessToken
		facts, err := r.server.introspect(token)
		tokens, _ := r.api.seen()
		return err == nil && facts.Active && slices.Contains(tokens, token)
	})
	output, code := harness.Run(r.t, r.c.Dir, "token-source", "revoke", "crm", "--address", r.c.Admin)
	assertSaid(r.t, output, code, 0, "revoked at the provider")
	if facts, err := r.server.introspect(token); err != nil || facts.Active {
		r.t.Errorf("a token that was revoked is still good (%v)", err)
	}
}

// assertWrongRefused wants a wrong credential to be told for what it is.
func (r *interopRow) assertWrongRefused() {
	r.t.Helper()
	wrong, wrongCode := r.way.wrong, r.offer.wrongCode()
	switch wrong.by {
	case byAuthorize:
		r.assertAuthorizeRefused()
		return
	case byCaller:
		r.assertCallerRefused()
		return
	}
	r.c.Eventually(30*time.Second, "the wrong credential was refused", func() bool { return r.c.LogCount("token_sources.wrong", "no token") > 0 })
	resp, _ := harness.Get(r.t, r.site+"/wrong")
	if details := resp.Header.Get("Proxy-Status"); resp.StatusCode != http.StatusBadGateway || !strings.Contains(details, wrongCode) {
		r.t.Errorf("with a wrong credential answered %d with Proxy-Status %q, want %s", resp.StatusCode, details, wrongCode)
	}
	args := []string{"token-source", "check", "--config", filepath.Join(r.c.Dir, "Caddyfile"), "--adapter", "caddyfile", "wrong"}
	want := 4
	if wrong.by == byShow {
		args, want = []string{"token-source", "show", "wrong", "--address", r.c.Admin}, 0
	}
	output, code := harness.Run(r.t, r.c.Dir, args...)
	assertSaid(r.t, output, code, want, wrongCode, r.cause())
}

// assertNotHammered wants the server to have been asked once by Caddy, and once by
// the command, however many callers come.
func (r *interopRow) assertNotHammered() {
	r.t.Helper()
	for range 20 {
		if resp, body := harness.Get(r.t, r.site+"/wrong"); resp.StatusCode != http.StatusBadGateway {
			r.t.Fatalf("with a wrong credential answered %d %q", resp.StatusCode, body)
		}
	}
	most := 2
	if r.way.wrong.by != byCheck {
		most = 1
	}
	refused := 0
	for _, request := range r.wrongly.all() {
		if request.status >= 400 {
			refused++
		}
	}
	if r.way.binding == withCertificate {
		refused = r.server.refusals(r.t, r.offer.client)
	}
	if refused == 0 || refused > most {
		r.t.Errorf("the server has refused the wrong credential %d times, and %d are to be", refused, most)
	}
}

// callbacks is where browsers come back to.
func (w *interopWorld) callbacks() string {
	var all []string
	for _, site := range slices.Sorted(maps.Values(w.sites)) {
		all = append(all, site+"/callback")
	}
	return strings.Join(all, " ")
}
