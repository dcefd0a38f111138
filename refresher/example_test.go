package refresher_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/caddytoken/inject-token/refresher"
	"github.com/caddytoken/inject-token/tokensource"
)

// counter is a provider that numbers its tokens. A *tokensource.Source is a
// real one.
type counter struct{ issued int }

func (c *counter) Obtain(context.Context, *tokensource.Token) (*tokensource.Token, error) {
	c.issued++
	return &tokensource.Token{
		AccessToken: fmt.Sprintf("token %d", c.issued),
		Issued:      time.Now(),
		Lifetime:    time.Hour,
	}, nil
}

// A refresher outlives the configurations that use it, so it is made first and
// attached then. It obtains a token in the background; whoever asks before it
// is there waits, for as long as they want to.
func Example() {
	r := refresher.New(refresher.Options{RefreshAt: 0.8, Timeout: 10 * time.Second})
	defer r.Close(4 * time.Second)
	detach := r.Attach(&refresher.Environment{Source: new(counter), Log: zap.NewNop()})
	defer detach()

	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	token, err := r.Token(ctx)
	if none, ok := errors.AsType[*refresher.Unavailable](err); ok {
		fmt.Println(none, "- try again in", none.RetryAfter)
		return
	}
	fmt.Println("sent with", token.AccessToken)

	// The API has refused it. Another one is obtained in the background, and
	// this one stays in use until then.
	r.Report(token)
	for r.Current() == token {
		time.Sleep(time.Millisecond)
	}
	fmt.Println("sent with", r.Current().AccessToken)
	// Output:
	// sent with token 1
	// sent with token 2
}
