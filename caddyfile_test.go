package injecttoken

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

var update = flag.Bool("update", false, "write what is now into the golden files of testdata")

// canary stands in every secret of testdata/wrong.
const canary = "CANARY"

// TestMain keeps Caddy from touching the data directory of whoever runs the
// tests.
func TestMain(m *testing.M) {
	flag.Parse()
	if dir := os.Getenv(storesUntilKilled); dir != "" {
		storeUntilKilled(dir)
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "inject-token-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	caddy.RegisterModule(recorder{})
	caddy.DefaultStorage.Path = dir
	for name, value := range map[string]string{
		"XDG_DATA_HOME": dir, "XDG_CONFIG_HOME": dir, // of Caddy
		"CRM_TOKEN_URL": "https://auth.example.org/token", "CRM_CLIENT": "legacy script", "CRM_DIR": "/run/secrets", // of the golden files
	} {
		os.Setenv(name, value)
	}
	return m.Run()
}

// adapt is `caddy adapt`.
func adapt(text string) ([]byte, error) {
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	return adapted, err
}

// validate is `caddy validate` of a JSON configuration. It returns what was
// logged at debug level as well.
func validate(config []byte) (string, error) {
	var cfg *caddy.Config
	if err := caddy.StrictUnmarshalJSON(caddy.RemoveMetaFields(config), &cfg); err != nil {
		return "", fmt.Errorf("decoding config: %v", err)
	}
	record := startRecord()
	defer record.stop()
	log := &caddy.CustomLog{}
	log.Level = "DEBUG"
	log.WriterRaw = json.RawMessage(`{"output": "recorder"}`)
	cfg.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": log}}
	err := caddy.Validate(cfg)
	return record.text(), err
}

// validateCaddyfile is `caddy validate` of a Caddyfile.
func validateCaddyfile(text string) (logged string, err error) {
	adapted, err := adapt(text)
	if err != nil {
		return "", err
	}
	return validate(adapted)
}

// recorder is the log of the configuration that is validated; there is one at
// a time.
type recorder struct{}

var recording struct {
	sync.Mutex // guards what follows
	buffer     bytes.Buffer
	one        sync.Mutex // held while one configuration is validated
}

func startRecord() recorder {
	recording.one.Lock()
	recording.Lock()
	defer recording.Unlock()
	recording.buffer.Reset()
	return recorder{}
}

func (recorder) stop() { recording.one.Unlock() }

func (recorder) text() string {
	recording.Lock()
	defer recording.Unlock()
	return recording.buffer.String()
}

func (recorder) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.logging.writers.recorder",
		New: func() caddy.Module { return new(recorder) },
	}
}

func (recorder) String() string                                  { return "recorder" }
func (recorder) WriterKey() string                               { return "recorder" }
func (r recorder) OpenWriter() (io.WriteCloser, error)           { return r, nil }
func (r recorder) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }
func (recorder) Close() error                                    { return nil }

func (recorder) Write(p []byte) (int, error) {
	recording.Lock()
	defer recording.Unlock()
	return recording.buffer.Write(p)
}

const separator = "\n----------\n"

// golden runs check for each file below a folder: a Caddyfile, a line, and
// what comes of it.
func golden(t *testing.T, dir string, check func(t *testing.T, input string) string) int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", dir, "*.caddyfiletest"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".caddyfiletest"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			input, want, ok := strings.Cut(string(data), separator)
			if !ok && !*update {
				t.Fatalf("%s has no line ----------", file)
			}
			input = strings.TrimSuffix(input, "\n") + "\n"
			got := check(t, input)
			if *update {
				if err := os.WriteFile(file, []byte(strings.TrimSuffix(input, "\n")+separator+got+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if want = strings.TrimSuffix(want, "\n"); got != want {
				t.Errorf("this came of %s:\n%s\nand this was expected:\n%s", file, got, want)
			}
		})
	}
	return len(files)
}

// withoutDir makes the name of an imported file the same on every machine.
func withoutDir(t *testing.T, text string) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	text = strings.ReplaceAll(text, dir+string(filepath.Separator), "")
	return strings.ReplaceAll(text, filepath.Join("testdata", "imported")+string(filepath.Separator), "testdata/imported/")
}

// wrongCaddyfiles are the cases of one file of testdata/wrong: a Caddyfile in
// which each of them stands in the place of the word HERE.
type wrongCaddyfiles struct {
	frame string
	cases []wrongCaddyfile
}

// wrongCaddyfile is a mistake and the error that is expected of it.
type wrongCaddyfile struct{ title, text, want string }

func readWrongCaddyfiles(t *testing.T, file string) *wrongCaddyfiles {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	chunks := strings.Split(string(data), "\n=== ")
	w := &wrongCaddyfiles{frame: chunks[0] + "\n"}
	for _, chunk := range chunks[1:] {
		title, rest, _ := strings.Cut(chunk, "\n")
		text, want, ok := strings.Cut(rest, separator)
		if !ok {
			t.Fatalf("%s: %s has no line ----------", file, title)
		}
		w.cases = append(w.cases, wrongCaddyfile{title, text, strings.TrimSuffix(want, "\n")})
	}
	return w
}

func (w *wrongCaddyfiles) write(t *testing.T, file string) {
	t.Helper()
	out := w.frame
	for _, c := range w.cases {
		out += "=== " + c.title + "\n" + c.text + separator + c.want + "\n"
	}
	if err := os.WriteFile(file, []byte(out), 0o644); err != nil {
		t.Fatal(err)
	}
}

var here = regexp.MustCompile(`(?m)^(\t*)HERE\n`)

// caddyfile puts a case into the frame, indented as its place is.
func (w *wrongCaddyfiles) caddyfile(c wrongCaddyfile) string {
	indent := here.FindStringSubmatch(w.frame)[1]
	lines := strings.ReplaceAll(c.text, "\n", "\n"+indent)
	return here.ReplaceAllLiteralString(w.frame, indent+lines+"\n")
}

func TestAWrongCaddyfileIsRefusedInWordsThatHelpAndShowNoSecret(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "wrong", "*.caddyfiletest"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, file := range files {
		w := readWrongCaddyfiles(t, file)
		n += len(w.cases)
		for i, c := range w.cases {
			t.Run(strings.TrimSuffix(filepath.Base(file), ".caddyfiletest")+"/"+c.title, func(t *testing.T) {
				got := mistakeIn(t, w.caddyfile(c))
				if *update {
					w.cases[i].want = got
				} else if got != c.want {
					t.Errorf("the error of\n%s\nis\n%s\nand this was expected:\n%s", c.text, got, c.want)
				}
			})
		}
		if *update {
			w.write(t, file)
		}
	}
	if n < 300 {
		t.Errorf("there are %d wrong Caddyfiles only", n)
	}
}

// mistakeIn returns what `caddy validate` says of a Caddyfile that is wrong,
// and wants none of its secrets in there.
func mistakeIn(t *testing.T, input string) string {
	t.Helper()
	if !strings.Contains(input, canary) {
		t.Errorf("no secret stands beside this mistake")
	}
	logged, err := validateCaddyfile(input)
	if err == nil {
		t.Fatal("this is taken as if nothing were wrong")
	}
	if strings.Contains(err.Error(), canary) {
		t.Errorf("a secret stands in the error: %v", err)
	}
	if strings.Contains(logged, canary) {
		t.Errorf("a secret stands in the log: %s", logged)
	}
	text := withoutDir(t, err.Error())
	// Caddy provisions apps in no order; http asks for token_sources.
	if i := strings.Index(text, "loading token_sources app module"); i >= 0 {
		text = text[i:]
	}
	return text
}

func TestGoldenCaddyfiles(t *testing.T) {
	n := golden(t, "adapt", func(t *testing.T, input string) string {
		adapted, err := adapt(input)
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if again, err := adapt(input); err != nil || !bytes.Equal(adapted, again) {
				t.Fatalf("adapted once more it became (%v)\n%s\ninstead of\n%s", err, again, adapted)
			}
		}
		if formatted := caddyfile.Format([]byte(input)); string(formatted) != input {
			t.Errorf("caddy fmt would write\n%s", formatted)
		}
		if _, err := validate(adapted); err != nil {
			t.Errorf("it is not valid: %v", err)
		}
		checkNothingIsLost(t, adapted)
		var out bytes.Buffer
		if err := json.Indent(&out, adapted, "", "\t"); err != nil {
			t.Fatal(err)
		}
		return out.String()
	})
	if n < 20 {
		t.Errorf("there are %d golden files only", n)
	}
}

// checkNothingIsLost reads every part of ours in a configuration as Caddy
// would and writes it again. A source must be the same one then, so that it
// keeps its token when the JSON is loaded in the place of the Caddyfile.
func checkNothingIsLost(t *testing.T, config []byte) {
	t.Helper()
	var parts struct {
		Apps struct {
			TokenSources json.RawMessage `json:"token_sources"`
		}
	}
	if err := json.Unmarshal(config, &parts); err != nil {
		t.Fatal(err)
	}
	var app App
	rewritten(t, parts.Apps.TokenSources, &app)
	for name, source := range app.Sources {
		text, err := json.MarshalIndent(source, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		again := new(Source)
		if err := caddy.StrictUnmarshalJSON(text, again); err != nil {
			t.Fatal(err)
		}
		first, err := keyOf(name, source)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := keyOf(name, again); err != nil || first != second {
			t.Errorf("the source %s becomes another one when its JSON is loaded (%v)", name, err)
		}
	}

	var tree any
	if err := json.Unmarshal(config, &tree); err != nil {
		t.Fatal(err)
	}
	transports := transportsIn(tree)
	if len(transports) == 0 {
		t.Error("no transport inject_token came of it")
	}
	for _, transport := range transports {
		delete(transport, "protocol")
		text, err := json.Marshal(transport)
		if err != nil {
			t.Fatal(err)
		}
		rewritten(t, text, new(Transport))
	}
}

// rewritten reads JSON into a value and wants it to be written the same again.
func rewritten(t *testing.T, text []byte, into any) {
	t.Helper()
	if err := caddy.StrictUnmarshalJSON(text, into); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	again, err := json.Marshal(into)
	if err != nil {
		t.Fatal(err)
	}
	if canonical(t, again) != canonical(t, text) {
		t.Errorf("it was read and written again, and became\n%s\ninstead of\n%s", again, text)
	}
}

// canonical is JSON with its names sorted.
func canonical(t *testing.T, text []byte) string {
	t.Helper()
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// transportsIn finds every transport of ours in a configuration.
func transportsIn(tree any) []map[string]any {
	var found []map[string]any
	switch node := tree.(type) {
	case []any:
		for _, child := range node {
			found = append(found, transportsIn(child)...)
		}
	case map[string]any:
		if node["protocol"] == "inject_token" {
			return append(found, node)
		}
		for _, child := range node {
			found = append(found, transportsIn(child)...)
		}
	}
	return found
}

// providerThatCounts listens where a token endpoint would, and counts who
// connects.
func providerThatCounts(t *testing.T) (address string, connections *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	connections = new(atomic.Int32)
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			conn.Close()
		}
	})
	t.Cleanup(func() { l.Close(); wait.Wait() })
	return l.Addr().String(), connections
}

func TestValidatingSendsNoTokenRequest(t *testing.T) {
	address, connections := providerThatCounts(t)
	config := `{
	token_sources {
		source crm {
			grant client_credentials
			token_url http://` + address + `/token
			client_id legacy-script
			client_secret swordfish
		}
	}
}
http://localhost:18080 {
	inject_token crm https://api.example.org
}
`
	if _, err := validateCaddyfile(config); err != nil {
		t.Fatal(err)
	}
	if _, err := validateCaddyfile(strings.Replace(config, "inject_token crm https", "reverse_proxy https", 1) + `http://localhost:18081 {
	reverse_proxy https://api.example.org {
		transport inject_token cmr
	}
}
`); err == nil {
		t.Fatal("a source that there is not was taken")
	}

	// The listener says nothing before it has taken this connection too, which
	// comes after all others.
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Fatal("the listener said something")
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections were made to the provider", n-1)
	}
}

// frames are where fuzzed text stands in an otherwise right Caddyfile.
const (
	sourcesFrame = `{
	token_sources {
		source crm {
			grant client_credentials
			token_url https://auth.example.org/token
			client_id legacy-script
			client_secret ` + canary + `
			%s
		}
	}
}
`
	directiveFrame = `{
	token_sources {
		source crm {
			grant client_credentials
			token_url https://auth.example.org/token
			client_id legacy-script
			client_secret ` + canary + `
		}
	}
}
http://localhost {
	%s
}
`
)

var (
	// importing would read the files and variables that the fuzzer names.
	importing = regexp.MustCompile(`import|\{\$`)

	// ourErrors are those that come of our parsers; Caddy's own do not all say
	// where, such as that of a matcher that nobody defined.
	ourErrors = regexp.MustCompile(`for 'token_sources': |for 'inject_token': [a-z_]+: `)
)

func checkFuzzed(t *testing.T, frame, text string) {
	t.Helper()
	if importing.MatchString(text) || strings.Contains(text, canary) {
		return
	}
	text = strings.Replace(frame, "%s", text, 1)
	adapted, err := adapt(text)
	if err != nil {
		if strings.Contains(err.Error(), canary) {
			t.Errorf("the secret stands in the error: %v", err)
		}
		if ourErrors.MatchString(err.Error()) && !strings.Contains(err.Error(), "Caddyfile:") {
			t.Errorf("the error does not say where: %v", err)
		}
		return
	}
	again, err := adapt(text)
	if err != nil || !bytes.Equal(adapted, again) {
		t.Errorf("adapted once more it became (%v)\n%s\ninstead of\n%s", err, again, adapted)
	}
	var first, second caddy.Config
	if err := caddy.StrictUnmarshalJSON(adapted, &first); err != nil {
		t.Fatalf("what was adapted cannot be loaded: %v\n%s", err, adapted)
	}
	text2, err := json.Marshal(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.StrictUnmarshalJSON(text2, &second); err != nil || !reflect.DeepEqual(first.AppsRaw, second.AppsRaw) {
		t.Errorf("what was adapted is read and written as something else (%v)\n%s\n%s", err, adapted, text2)
	}
	raw, ok := first.AppsRaw["token_sources"]
	if !ok {
		return
	}
	var app App
	rewritten(t, raw, &app)
}

// fragments are the options of every golden and every wrong Caddyfile, as they
// stand in the block of a source or of a site.
func fragments(f *testing.F, dir string, block *regexp.Regexp) {
	f.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", dir, "*.caddyfiletest"))
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, found := range block.FindAllStringSubmatch(string(data), -1) {
			f.Add(strings.ReplaceAll(found[1], canary, "secret"))
		}
	}
}

var (
	sourceBlock = regexp.MustCompile(`(?s)\n\t\t\tclient_secret [^\n]*\n(.*?)\n\t\t\}`)
	siteBlock   = regexp.MustCompile(`(?s)\nhttp://localhost \{\n(.*?)\n\}`)
	wrongCase   = regexp.MustCompile(`(?s)\n=== [^\n]*\n(.*?)\n----------`)
)

func FuzzTokenSourcesCaddyfile(f *testing.F) {
	fragments(f, "adapt", sourceBlock)
	fragments(f, "wrong", wrongCase)
	f.Add("}\nsource billing {\ngrant custom\ntoken_url http://localhost")
	f.Add("}\n}\ntoken_sources {\nsource billing {\ngrant custom\ntoken_url http://localhost")
	f.Fuzz(func(t *testing.T, text string) { checkFuzzed(t, sourcesFrame, text) })
}

func FuzzInjectTokenCaddyfile(f *testing.F) {
	fragments(f, "adapt", siteBlock)
	fragments(f, "wrong", wrongCase)
	f.Fuzz(func(t *testing.T, text string) { checkFuzzed(t, directiveFrame, text) })
}
