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
	for _, name := range names {
		if !provisioned.(*App).checkSource(name) {
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

// checkSource obtains a token, and says what came of it in one line.
func (a *App) checkSource(name string) (works bool) {
	s := a.Sources[name]
	source, err := s.obtainer(tokenTransport{a.running[name].transport})
	if err != nil {
		fmt.Printf("%s: %v\n", name, err)
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	grant, _ := tokensource.GrantByName(s.Grant)
	if grant.Person || grant.BeginsWithRefreshToken() || s.takesCallers() {
		if err := source.Ready(ctx); err != nil {
			return explained(name, err)
		}
		if s.takesCallers() {
			fmt.Printf("%s: not asked, for each caller brings its own token; its secrets and addresses can be had\n", name)
		} else if grant.Person {
			fmt.Printf("%s: not asked, for a person begins this; its secrets and addresses can be had. Whether that was done says caddy token-source show %s; it is done with %s\n", name, name, authorizeCommand(name))
		} else {
			fmt.Printf("%s: not asked, for it would spend the refresh token; its secrets and addresses can be had. Whether it works says: caddy token-source show %s\n", name, name)
		}
		return true
	}
	token, err := source.Obtain(ctx, nil)
	if err != nil {
		return explained(name, err)
	}
	expires := known(token.Expiry())
	if expires == nil {
		fmt.Printf("%s: ok, a token; the provider does not say for how long\n", name)
	} else {
		fmt.Printf("%s: ok, a token%s\n", name, until(expires))
	}
	return true
}

func explained(name string, err error) bool {
	text := err.Error()
	if e, ok := errors.AsType[*tokensource.Error](err); ok {
		text = explain(e)
	}
	fmt.Printf("%s: %s\n", name, text)
	return false
}
