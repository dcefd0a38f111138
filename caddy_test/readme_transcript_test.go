package caddy_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
	"github.com/caddytoken/inject-token/caddy_test/internal/terminal"
	"github.com/caddytoken/inject-token/caddy_test/internal/transcript"
)

// TestTheREADMEsTranscriptIsWhatHappens types what the README types, and
// compares line by line what the terminal shows.
func TestTheREADMEsTranscriptIsWhatHappens(t *testing.T) {
	t.Parallel()
	_, section, found := strings.Cut(harness.ReadRepositoryFile(t, "README.md"), "\n## Authorize once\n")
	if !found {
		t.Fatal("the README has no section Authorize once")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	for _, difference := range replayDocument(t, section) {
		t.Error("of the section Authorize once:", difference)
	}
}

// A document as the README's, in which everything that the program words stands
// as …, and how to make it wrong.
const transcriptDocument = "Write:\n\n```caddyfile\n" + `{
	token_sources {
		source crm {
			grant authorization_code
			authorize_url https://auth.example.org/oauth2/authorize
			token_url https://auth.example.org/oauth2/token
			client_id reports
			client_secret {file./run/secrets/crm}
			redirect_uri https://crm.internal.example.org/oauth/callback
		}
	}
}

crm.internal.example.org {
	token_callback /oauth/callback
	inject_token crm https://api.example.org
}
` + "```\n\n```console\n" + `$ caddy token-source list
…
crm  … needs_authorization  …
…

$ caddy token-source authorize crm
Open this address in a browser…

  https://auth.example.org/oauth2/authorize?…

…
> 4/0AX4XfWh

Authorized: crm…
…

$ curl -s https://crm.internal.example.org/orders
hello GET /orders
` + "```\n\nLater, by the callback:\n\n```console\n" + `$ caddy token-source authorize crm
…
  https://auth.example.org/oauth2/authorize?…
…
>
Authorized: crm…
…
` + "```\n"

func TestATranscriptIsReplayed(t *testing.T) {
	t.Parallel()
	for _, difference := range replayDocument(t, transcriptDocument) {
		t.Error(difference)
	}
	for right, wrong := range map[string]string{"hello GET /orders": "hello GET /order", "Authorized: crm…\n…\n\n$ curl": "Authorised: crm…\n…\n\n$ curl", "Open this address": "Open that address"} {
		text := strings.Replace(transcriptDocument, right, wrong, 1)
		if differences := replayDocument(t, text); len(differences) != 1 || text == transcriptDocument {
			t.Errorf("with %q in the document, these differences are found: %q", wrong, differences)
		}
	}
}

// stage is a document's Caddyfile that runs here, with a local provider.
type stage struct {
	*desk
	here  *strings.Replacer // the document's addresses, where they are here
	there *strings.Replacer // and back
	path  string            // of commands
}

// replayDocument runs the first Caddyfile of a document and then its sessions,
// and returns where they differ.
func replayDocument(t *testing.T, document string) (differences []string) {
	t.Helper()
	block := readmeCaddyfile.FindStringSubmatch(document)
	if block == nil {
		t.Fatal("the document has no Caddyfile")
	}
	steps, err := transcript.Parse(document)
	if err != nil || len(steps) == 0 {
		t.Fatalf("the document's sessions have %d commands: %v", len(steps), err)
	}
	s := newStage(t, block[1])
	for _, step := range steps {
		for i, line := range step.Output {
			step.Output[i] = squeeze(line)
		}
		if difference := step.Compare(squeeze(s.there.Replace(s.play(step)))); difference != "" {
			differences = append(differences, "$ "+step.Command+": "+difference)
		}
	}
	return differences
}

var (
	ofOption = regexp.MustCompile(`(?m)^\s+(issuer|authorize_url|device_url|token_url|revoke_url|redirect_uri|client_id) (\S+)$`)
	ofFile   = regexp.MustCompile(`\{file\.(/[^}]+)\}`)
	ofSite   = regexp.MustCompile(`(?m)^(?:https?://)?([a-z0-9.:-]+) \{$`)
	ofProxy  = regexp.MustCompile(`(?m)^\s+inject_token .*?(https?://\S+)`)
	blanks   = regexp.MustCompile(`(\S) {2,}`)
)

// squeeze makes columns as narrow as they can be: names are longer here.
func squeeze(text string) string { return blanks.ReplaceAllString(text, "$1  ") }

func newStage(t *testing.T, caddyfile string) *stage {
	t.Helper()
	p := provider.New(t, provider.Dialect{Pages: map[string]func(*provider.Provider, http.ResponseWriter, *http.Request){
		"/.well-known/openid-configuration": serveMetadata,
	}})
	p.Set(func(k *provider.Knobs) { k.Offline = true })
	s := &stage{desk: &desk{t: t, provider: p, url: freeURL(t)}}
	t.Cleanup(s.assertHidden)
	here, there := s.addresses(caddyfile)
	s.here, s.there = strings.NewReplacer(here...), strings.NewReplacer(there...)
	text := ofSite.ReplaceAllLiteralString(caddyfile, s.url+" {\n\tbind 127.0.0.1")
	text = ofFile.ReplaceAllString(s.here.Replace(text), "{file.{{dir}}/secret}")
	s.caddy = harness.Start(t, strings.Replace(text, "{\n", "{\n\t{{globals}}\n", 1), withSecret(provider.ClientSecret))

	s.caddy.WaitLog("a person must authorize this source") // the storage was read

	s.path = t.TempDir()
	if err := os.Symlink(harness.Binary(t), filepath.Join(s.path, "caddy")); err != nil {
		t.Fatal(err)
	}
	harness.Need(t, "curl", "curl")
	return s
}

// serveMetadata says where a provider has its endpoints.
func serveMetadata(p *provider.Provider, w http.ResponseWriter, _ *http.Request) {
	_ = json.NewEncoder(w).Encode(map[string]any{"issuer": p.URL, "authorization_endpoint": p.AuthorizeURL(), "token_endpoint": p.TokenURL(),
		"device_authorization_endpoint": p.DeviceURL(), "revocation_endpoint": p.RevokeURL(), "code_challenge_methods_supported": []string{"S256"}})
}

// addresses are pairs of what the document has and what is here, and the other
// way round.
func (s *stage) addresses(caddyfile string) (here, there []string) {
	put := func(documents, ours string) {
		here, there = append(here, documents, ours), append(there, ours, documents)
	}
	for _, m := range ofOption.FindAllStringSubmatch(caddyfile, -1) {
		switch value := m[2]; m[1] {
		case "issuer":
			put(value, s.provider.URL)
		case "authorize_url":
			put(value, s.provider.AuthorizeURL())
		case "device_url":
			put(value, s.provider.DeviceURL())
		case "token_url":
			put(value, s.provider.TokenURL())
			if u, err := url.Parse(value); err == nil { // last, as it is part of the others
				defer put(u.Host, strings.TrimPrefix(s.provider.URL, "http://"))
			}
		case "revoke_url":
			put(value, s.provider.RevokeURL())
		case "client_id":
			put("client_id "+value, "client_id "+provider.ClientID)
		}
	}
	for _, m := range ofProxy.FindAllStringSubmatch(caddyfile, -1) {
		put(m[1], s.provider.API)
	}
	for _, m := range ofSite.FindAllStringSubmatch(caddyfile, -1) {
		put("https://"+m[1], s.url)
		put("http://"+m[1], s.url)
	}
	return here, there
}

// play runs a command, does what the person of the document does, and returns
// what stood on the screen.
func (s *stage) play(step transcript.Step) (screen string) {
	s.t.Helper()
	cmd := exec.Command("sh", "-c", s.here.Replace(step.Command))
	cmd.Dir = s.caddy.Dir
	cmd.Env = append(harness.Command(s.t, s.caddy.Dir).Env, "PATH="+s.path+":"+os.Getenv("PATH"), "CADDY_ADMIN="+s.caddy.Admin)
	session := s.note(terminal.Start(s.t, cmd))
	if strings.Contains(step.Command, "token-source authorize") {
		s.person(session, step)
	}
	session.ExitCode()
	return session.Screen()
}

// person opens the address and comes back with what the document types, or
// leaves it to the browser.
func (s *stage) person(session *terminal.Session, step transcript.Step) {
	s.t.Helper()
	address := session.AwaitMatch(printedURL)[1]
	if codes := s.provider.UserCodes(); len(codes) > 0 {
		s.provider.Approve(codes[len(codes)-1])
		return
	}
	visited := s.provider.Visit(address)
	session.Await("\n> ")
	typed := ""
	for _, line := range step.Output {
		if text, found := strings.CutPrefix(line, "> "); found {
			typed = strings.TrimSpace(text)
		}
	}
	switch {
	case typed == "":
		s.land(visited)
	case strings.HasPrefix(typed, "http"):
		session.Type(visited.Location)
	case visited.Shown != "":
		session.Type(visited.Shown)
	default:
		session.Type(visited.Answer.Get("code"))
	}
}
