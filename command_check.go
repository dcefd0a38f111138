package injecttoken

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddytoken/inject-token/tokensource"
)

func checkCommand() *cobra.Command {
	cmd := command("check [--config FILE] [NAME]", "Obtains a token for each source of a configuration file",
		`
Obtains a token for each token source of a configuration file, or for one, and
explains what goes wrong. No Caddy has to run. The tokens are thrown away.

A source whose token request would spend a refresh token, and one that a person must
authorize, is not asked: only its secrets and its issuer's metadata are read.
`+exitCodes,
		`  caddy token-source check
  caddy token-source check --config /etc/caddy/Caddyfile crm`,
		cobra.MaximumNArgs(1), runCheck)
	cmd.Flags().StringP("config", "c", "", "Configuration file; default: the Caddyfile of this folder")
	cmd.Flags().StringP("adapter", "a", "", "Name of the config adapter for that file")
	return cmd
}

func runCheck(fl caddycmd.Flags) (int, error) {
	app, err := loadSources(fl.String("config"), fl.String("adapter"))
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	names := slices.Sorted(maps.Keys(app.Sources))
	if name := fl.Arg(0); name != "" {
		if app.Sources[name] == nil {
			return caddy.ExitCodeFailedStartup, unknownSource(name, app.Sources)
		}
		names = []string{name}
	}
	if len(names) == 0 {
		return caddy.ExitCodeFailedStartup, errors.New("there are no token sources in this configuration")
	}
	// Only this app: the others may open ports and files.
	config := &caddy.Config{AppsRaw: caddy.ModuleMap{"token_sources": app.raw}}
	ctx, err := caddy.ProvisionContext(config)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	provisioned, err := ctx.App("token_sources")
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	refused := 0
	sources := &checkedSources{app: provisioned.(*App), obtained: make(map[string]checkedToken)}
	for _, name := range names {
		if !sources.check(name) {
			refused++
		}
	}
	if refused > 0 {
		return exitRefused, fmt.Errorf("%d of %d token sources do not work", refused, len(names))
	}
	return caddy.ExitCodeSuccess, nil
}

// loadedSources are the sources of a configuration file.
type loadedSources struct {
	App
	raw json.RawMessage
}

func loadSources(file, adapter string) (*loadedSources, error) {
	text, _, _, err := caddycmd.LoadConfig(file, adapter)
	if err != nil {
		return nil, err
	}
	if len(text) == 0 {
		return nil, errors.New("there is no Caddyfile in this folder; write --config FILE")
	}
	var config struct {
		Apps struct {
			Sources json.RawMessage `json:"token_sources"`
		} `json:"apps"`
	}
	if err := json.Unmarshal(text, &config); err != nil {
		return nil, fmt.Errorf("the configuration is not JSON: %w", err)
	}
	out := &loadedSources{raw: config.Apps.Sources}
	if len(out.raw) == 0 {
		return out, nil
	}
	if err := json.Unmarshal(out.raw, &out.App); err != nil {
		return nil, fmt.Errorf("token_sources: %w", err)
	}
	return out, nil
}

// checkedSources obtains a token of each source once, for itself and for those that
// send it.
type checkedSources struct {
	app      *App
	obtained map[string]checkedToken
}

type checkedToken struct {
	token *tokensource.Token
	err   error
}

func (c *checkedSources) source(name string) (*tokensource.Source, error) {
	return c.app.running[name].config.obtainer(tokenTransport{c.app.running[name].transport}, c)
}

func (c *checkedSources) obtain(ctx context.Context, name string) (*tokensource.Token, error) {
	if got, there := c.obtained[name]; there {
		return got.token, got.err
	}
	source, err := c.source(name)
	if err != nil {
		return nil, err
	}
	token, err := source.Obtain(ctx, nil)
	c.obtained[name] = checkedToken{token, err}
	return token, err
}

// whyNotAsked says why no token is obtained of a source here; "": one is.
func (c *checkedSources) whyNotAsked(name string) string {
	s := c.app.running[name].config
	grant, _ := tokensource.GrantByName(s.Grant)
	switch {
	case s.takesCallers():
		return "each caller brings its own token"
	case grant.Person:
		return "a person begins this"
	case grant.BeginsWithRefreshToken():
		return "it would spend the refresh token"
	}
	for _, other := range s.others() {
		if c.whyNotAsked(other) != "" {
			return "it sends the token of " + other + ", which is not asked"
		}
	}
	return ""
}

// check obtains a token, and says what came of it in one line.
func (c *checkedSources) check(name string) (works bool) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s := c.app.running[name].config
	if why := c.whyNotAsked(name); why != "" {
		source, err := c.source(name)
		if err == nil && !slices.ContainsFunc(s.others(), func(other string) bool { return c.whyNotAsked(other) != "" }) {
			why += "; its secrets and addresses can be had"
			err = source.Ready(ctx)
		}
		if err != nil {
			return explained(name, err)
		}
		switch grant, _ := tokensource.GrantByName(s.Grant); {
		case s.takesCallers():
		case grant.Person:
			why += fmt.Sprintf(". Whether that was done says caddy token-source show %s; it is done with %s", name, authorizeCommand(name))
		default:
			why += ". Whether it works says: caddy token-source show " + name
		}
		fmt.Printf("%s: not asked, for %s\n", name, why)
		return true
	}
	token, err := c.obtain(ctx, name)
	if err != nil {
		return explained(name, err)
	}
	if missing := s.missingIn(token); missing != "" {
		fmt.Printf("%s: there is a token, and the answer has nothing for token_response expose %s: check its path\n", name, missing)
		return false
	}
	expires := known(token.Expiry())
	if expires == nil {
		fmt.Printf("%s: ok, a token; the provider does not say for how long\n", name)
	} else {
		fmt.Printf("%s: ok, a token%s\n", name, until(expires))
	}
	return true
}

// missingIn returns a name that the source exposes and the answer with a token has
// nothing for, with its path; "": there is none.
func (s *Source) missingIn(token *tokensource.Token) string {
	if s.TokenResponse == nil {
		return ""
	}
	for _, name := range slices.Sorted(maps.Keys(s.TokenResponse.Expose)) {
		if _, there := token.Exposed[name]; !there {
			return name + " " + s.TokenResponse.Expose[name]
		}
	}
	return ""
}

// Token obtains the token of a source that another sends.
func (c *checkedSources) Token(ctx context.Context, name string) (*tokensource.Token, *tokensource.Error) {
	token, err := c.obtain(ctx, name)
	if err == nil {
		return token, nil
	}
	if e, ok := errors.AsType[*tokensource.Error](err); ok {
		return nil, e
	}
	return nil, new(tokensource.Error)
}

// Current returns nothing: nobody comes again.
func (*checkedSources) Current(string) *tokensource.Token { return nil }

// Replacement returns nothing: each source is asked once.
func (*checkedSources) Replacement(context.Context, string, *tokensource.Token) *tokensource.Token {
	return nil
}

// Identity returns nothing: nothing is stored.
func (*checkedSources) Identity(string) (string, error) { return "", nil }

func explained(name string, err error) bool {
	text := err.Error()
	if e, ok := errors.AsType[*tokensource.Error](err); ok {
		text = explain(e)
	}
	fmt.Printf("%s: %s\n", name, text)
	return false
}
