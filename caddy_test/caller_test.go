package caddy_test

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/canary"
	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// exchanger is a provider that exchanges callers' tokens, and an API that knows by
// the token that it gets whose it is, and answers with a digest of that.
type exchanger struct {
	t           *testing.T
	tokens, api string

	mu       sync.Mutex // guards everything below
	owner    map[string]string
	asked    map[string]int // token requests by their subject
	refused  string         // the beginning of subjects that it does not take
	down     bool
	requests []http.Header // at the API, with its query as X-Query
}

func newExchanger(t *testing.T) *exchanger {
	e := &exchanger{t: t, owner: make(map[string]string), asked: make(map[string]int), refused: "stranger"}
	tokens, api := httptest.NewServer(http.HandlerFunc(e.exchange)), httptest.NewServer(http.HandlerFunc(e.serve))
	t.Cleanup(func() {
		for _, server := range []*httptest.Server{tokens, api} {
			server.CloseClientConnections()
			server.Close()
		}
	})
	e.tokens, e.api = tokens.URL, api.URL
	return e
}

func (e *exchanger) exchange(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	subject := r.PostFormValue("subject_token")
	e.asked[subject]++
	switch {
	case e.down:
		w.WriteHeader(http.StatusServiceUnavailable)
	case r.Header.Get("Dpop") != "" || r.PostFormValue("grant_type") != "urn:ietf:params:oauth:grant-type:token-exchange":
		answerJSON(w, http.StatusBadRequest, map[string]any{"error": "unsupported_grant_type"})
	case subject == "" || strings.HasPrefix(subject, e.refused):
		answerJSON(w, http.StatusBadRequest, map[string]any{"error": "invalid_grant", "error_description": "not " + subject})
	default:
		token := "exchanged-" + rand.Text()
		e.owner[token] = subject
		answerJSON(w, http.StatusOK, map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": 3600})
	}
}

func digestOf(subject string) string {
	sum := sha256.Sum256([]byte(subject))
	return hex.EncodeToString(sum[:])
}

func (e *exchanger) serve(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	seen := r.Header.Clone()
	seen.Set("X-Query", r.URL.RawQuery)
	e.requests = append(e.requests, seen)
	if r.URL.Path == "/health" {
		return
	}
	token := bearerOf(r)
	if key := r.Header.Get("X-Api-Key"); key != "" {
		token = key
	}
	subject, known := e.owner[token]
	if !known {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	fmt.Fprint(w, digestOf(subject))
}

// sum returns how many token requests there were, and how many requests to the API.
func (e *exchanger) sum() (asked, served int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, n := range e.asked {
		asked += n
	}
	return asked, len(e.requests)
}

func (e *exchanger) askedFor(subject string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.asked[subject]
}

func (e *exchanger) set(change func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change()
}

func (e *exchanger) source() string {
	return fmt.Sprintf(`source callers {
			grant token_exchange
			token_url %s
			client_id %s
			client_secret {file.{{dir}}/secret}
			subject_token caller
		}`, e.tokens, provider.ClientID)
}

// start runs Caddy with a site for the API.
func (e *exchanger) start(options string) (c *harness.Caddy, text, url string) {
	e.t.Helper()
	text, url = caddyfile(e.t, e.source(), "inject_token callers "+e.api+" {\n"+options+"\n}")
	return harness.Start(e.t, text, withSecret(provider.ClientSecret)), text, url
}

// callAs sends a request with these values of Authorization.
func callAs(t *testing.T, url string, values ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(values) > 0 {
		req.Header["Authorization"] = values
	}
	return harness.Do(t, req)
}

func TestWhoBringsNoTokenIsRefusedAndNobodyIsAsked(t *testing.T) {
	t.Parallel()
	e := newExchanger(t)
	_, _, url := e.start("")
	for what, values := range map[string][]string{
		"nothing":            nil,
		"Basic":              {"Basic cGV0ZXI6cGV0ZXI="},
		"two fields":         {"Bearer subject-a", "Bearer subject-b"},
		"the same twice":     {"Bearer subject-a", "Bearer subject-a"},
		"an empty Bearer":    {"Bearer "},
		"Bearer alone":       {"Bearer"},
		"spaces":             {"Bearer     "},
		"two tokens":         {"Bearer subject-a subject-b"},
		"a list":             {"Bearer subject-a,Bearer subject-b"},
		"a token too long":   {"Bearer " + strings.Repeat("a", 20<<10)},
		"no scheme":          {"subject-a"},
		"another scheme":     {"DPoP subject-a"},
		"a scheme as prefix": {"Bearersubject-a"},
	} {
		resp, body := callAs(t, url, values...)
		if challenge := resp.Header.Get("WWW-Authenticate"); resp.StatusCode != http.StatusUnauthorized || challenge != "Bearer" {
			t.Errorf("%s is answered %d, challenge %q: %s", what, resp.StatusCode, challenge, body)
		}
	}
	if asked, served := e.sum(); asked != 0 || served != 0 {
		t.Errorf("%d token requests, %d to the API", asked, served)
	}
	if resp, body := callAs(t, url, "bEARER  subject-a "); resp.StatusCode != http.StatusOK || body != digestOf("subject-a") {
		t.Errorf("a token that is written unusually is answered %d: %s", resp.StatusCode, body)
	}
}

func TestCallersNeverGetOneAnothersToken(t *testing.T) {
	t.Parallel()
	e := newExchanger(t)
	_, _, url := e.start("")
	const subjects, times = 50, 6
	var all sync.WaitGroup
	for i := range subjects * times {
		subject := fmt.Sprintf("subject-%d", i%subjects)
		all.Go(func() {
			if resp, body := callAs(t, url+"/"+subject, "Bearer "+subject); resp.StatusCode != http.StatusOK || body != digestOf(subject) {
				t.Errorf("%s is answered %d with what belongs to %s", subject, resp.StatusCode, body)
			}
		})
	}
	all.Wait()
	if asked, served := e.sum(); asked != subjects || served != subjects*times {
		t.Errorf("%d token requests for %d subjects, %d to the API", asked, subjects, served)
	}
}

func TestACallersOwnTokenNeverReachesTheAPI(t *testing.T) {
	t.Parallel()
	for _, options := range []string{"", "header X-Api-Key {token}", "query key\nheader X-Api-Key {token}", "header_up +Authorization {http.request.header.Authorization}", "basic user {token}"} {
		t.Run(options, func(t *testing.T) {
			t.Parallel()
			e := newExchanger(t)
			_, _, url := e.start(options)
			for _, field := range []string{"Authorization", "authorization", "AUTHORIZATION", "aUTHORIZATION"} {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Header[field] = []string{"Bearer subject-a-0123456789"}
				harness.Do(t, req)
			}
			e.mu.Lock()
			defer e.mu.Unlock()
			if len(e.requests) == 0 && !strings.Contains(options, "header_up") {
				t.Error("nothing came to the API")
			}
			for _, header := range e.requests {
				if text := fmt.Sprint(header); strings.Contains(text, "subject-a-0123456789") {
					t.Errorf("the caller's own token came to the API: %s", text)
				}
				if strings.HasPrefix(options, "header X-Api-Key") && header.Get("Authorization") != "" {
					t.Errorf("Authorization came to the API: %s", header)
				}
			}
		})
	}
}

func TestASubjectThatIsRefusedIsAskedForOnce(t *testing.T) {
	t.Parallel()
	e := newExchanger(t)
	_, _, url := e.start("")
	for range 3 {
		resp, body := callAs(t, url, "Bearer stranger-0123456789")
		if challenge := resp.Header.Get("WWW-Authenticate"); resp.StatusCode != http.StatusUnauthorized || challenge != `Bearer error="invalid_token"` {
			t.Errorf("a subject that is refused is answered %d, %q", resp.StatusCode, challenge)
		}
		if strings.Contains(body, "stranger-") {
			t.Errorf("its token is in the answer: %s", body)
		}
	}
	if n := e.askedFor("stranger-0123456789"); n != 1 {
		t.Errorf("it was asked for %d times", n)
	}
	if resp, _ := callAs(t, url, "Bearer subject-a"); resp.StatusCode != http.StatusOK {
		t.Errorf("another subject is answered %d", resp.StatusCode)
	}
}

func TestAProviderThatIsDownKeepsNobodyOutWhoHasAToken(t *testing.T) {
	t.Parallel()
	e := newExchanger(t)
	_, _, url := e.start("wait 2s")
	callAs(t, url, "Bearer subject-a")
	e.set(func() { e.down = true })
	if resp, body := callAs(t, url, "Bearer subject-b"); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a new subject is answered %d: %s", resp.StatusCode, body)
	}
	if resp, body := callAs(t, url, "Bearer subject-a"); resp.StatusCode != http.StatusOK || body != digestOf("subject-a") {
		t.Errorf("a subject that has a token is answered %d: %s", resp.StatusCode, body)
	}
	e.set(func() { e.down = false })
	harness.Eventually(t, time.Minute, "the new subject is served", func() bool {
		_, body := callAs(t, url, "Bearer subject-b")
		return body == digestOf("subject-b")
	})
}

func TestATokenOfACallerThatTheAPIRefusesIsExchangedOnceMore(t *testing.T) {
	t.Parallel()
	e := newExchanger(t)
	_, _, url := e.start("")
	callAs(t, url, "Bearer subject-a")
	callAs(t, url, "Bearer subject-b")
	e.set(func() {
		for token, subject := range e.owner {
			if subject == "subject-a" {
				delete(e.owner, token)
			}
		}
	})
	for range 2 {
		for _, subject := range []string{"subject-a", "subject-b"} {
			if resp, body := callAs(t, url, "Bearer "+subject); resp.StatusCode != http.StatusOK || body != digestOf(subject) {
				t.Errorf("%s is answered %d: %s", subject, resp.StatusCode, body)
			}
		}
	}
	if a, b := e.askedFor("subject-a"), e.askedFor("subject-b"); a != 2 || b != 1 {
		t.Errorf("%d and %d token requests, want 2 for the one that was refused, and 1", a, b)
	}
	if _, served := e.sum(); served != 7 {
		t.Errorf("%d requests came to the API, want 7", served)
	}
}

func TestCallersTokensAreNowhereButAtTheProvider(t *testing.T) {
	t.Parallel()
	e := newExchanger(t)
	c, _, url := e.start("")
	nest := new(canary.Nest)
	for _, head := range []string{"stranger", "subject-", "subject-"} {
		secret := rand.Text()
		nest.Add(head, secret)
		resp, body := callAs(t, url, "Bearer "+head+secret)
		if found := nest.Find(fmt.Sprint(resp.Header) + body); found != nil {
			t.Errorf("in the answer is the token of %v", found)
		}
	}
	e.set(func() { e.down = true })
	callAs(t, url, "Bearer subject-"+rand.Text())
	c.WaitLog("a caller's token was not exchanged")
	e.mu.Lock()
	if len(e.owner) != 2 {
		t.Errorf("%d tokens were issued", len(e.owner))
	}
	for token := range e.owner {
		nest.Add("what was exchanged for it", strings.TrimPrefix(token, "exchanged-"))
	}
	e.mu.Unlock()
	places := map[string]string{"the log": c.Log(), "the configuration": c.AdminGet("/config/"), "the status": c.AdminGet("/token_sources/"), "the metrics": c.AdminGet("/metrics")}
	_ = filepath.Walk(c.Dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			text, _ := os.ReadFile(path)
			places[path] = string(text)
		}
		return nil
	})
	for place, text := range places {
		if text == "" && !strings.HasPrefix(place, c.Dir) {
			t.Errorf("%s is empty", place)
		}
		if found := nest.Find(text); found != nil {
			t.Errorf("%s holds %v", place, found)
		}
	}
}

func TestAReloadKeepsCallersTokens(t *testing.T) {
	t.Parallel()
	e := newExchanger(t)
	c, text, url := e.start("")
	subjects := []string{"subject-a", "subject-b", "subject-c"}
	get := func() {
		t.Helper()
		for _, subject := range subjects {
			if resp, body := callAs(t, url, "Bearer "+subject); resp.StatusCode != http.StatusOK || body != digestOf(subject) {
				t.Errorf("%s is answered %d: %s", subject, resp.StatusCode, body)
			}
		}
	}
	get()
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
				get()
			}
		}
	}()
	for i := range 3 {
		if err := c.Reload(text + fmt.Sprintf("# %d\n", i)); err != nil {
			t.Error(err)
		}
		get()
	}
	close(stop)
	<-ended
	if asked, _ := e.sum(); asked != len(subjects) {
		t.Errorf("%d token requests, want %d", asked, len(subjects))
	}
	// Another client is another one to exchange with.
	if err := c.Reload(strings.Replace(text, "client_id "+provider.ClientID, "client_id another", 1)); err != nil {
		t.Fatal(err)
	}
	get()
	if asked, _ := e.sum(); asked != 2*len(subjects) {
		t.Errorf("%d token requests after another client came, want %d", asked, 2*len(subjects))
	}
}

func TestACallersTokenCannotBeKept(t *testing.T) {
	t.Parallel()
	e := newExchanger(t)
	for _, options := range []string{"existing keep", "existing keep\nheader X-Api-Key {token}"} {
		text, _ := caddyfile(t, e.source(), "inject_token callers "+e.api+" {\n"+options+"\n}")
		c := newChecked(t)
		harness.WriteFile(t, c.dir, "Caddyfile", strings.NewReplacer("{{globals}}", "admin off", "{{dir}}", c.dir).Replace(text))
		harness.WriteFile(t, c.dir, "secret", provider.ClientSecret)
		out, code := harness.Run(t, c.dir, "validate", "--config", "Caddyfile", "--adapter", "caddyfile")
		if code == 0 || !strings.Contains(out, "with keep a caller's own token would go to the API") {
			t.Errorf("%s: %d %s", options, code, out)
		}
	}
}

func TestHealthOfAnAPIOfCallersIsAskedForWithoutAToken(t *testing.T) {
	t.Parallel()
	e := newExchanger(t)
	_, _, url := e.start("health_uri /health\nhealth_interval 100ms")
	harness.Eventually(t, 30*time.Second, "the health of the API is asked for", func() bool {
		_, served := e.sum()
		return served >= 2
	})
	e.mu.Lock()
	for _, header := range e.requests {
		if header.Get("Authorization") != "" {
			t.Errorf("with %q", header.Get("Authorization"))
		}
	}
	e.mu.Unlock()
	if resp, body := callAs(t, url, "Bearer subject-a"); resp.StatusCode != http.StatusOK {
		t.Errorf("a caller is answered %d: %s", resp.StatusCode, body)
	}
}

func TestHealthIsAskedForWhereTheSourceIsOfARequest(t *testing.T) {
	t.Parallel()
	e := newExchanger(t)
	source := strings.Replace(e.source(), "source callers", "source tenant-a", 1)
	text, url := caddyfile(t, source, "vars tenant a\ninject_token tenant-{http.vars.tenant} "+e.api+" {\nsources tenant-*\nhealth_uri /health\nhealth_interval 100ms\n}")
	harness.Start(t, text, withSecret(provider.ClientSecret))
	harness.Eventually(t, 30*time.Second, "the health of the API is asked for", func() bool {
		_, served := e.sum()
		return served >= 2
	})
	if resp, body := callAs(t, url, "Bearer subject-a"); resp.StatusCode != http.StatusOK {
		t.Errorf("a caller is answered %d: %s", resp.StatusCode, body)
	}
}
